package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// maxForwarded bounds the connections of one forward that are open at once.
const maxForwarded = 1024

var errReverse = errors.New("-R is not possible: Session Manager opens connections towards the instance only; use ssh -R through connect or the gateway")

func newForwardCommand() *cobra.Command {
	aws := &laptop{}
	var locals, reverse []string
	var alive keepAlive
	cmd := &cobra.Command{
		Use:   "forward -L [BIND:]PORT:HOST:HOSTPORT... TARGET",
		Short: "Forward local ports and sockets to an instance, and to hosts behind it",
		Long: `forward listens on this machine and leads each connection to a port of TARGET (HOST localhost) or of a host that TARGET reaches, without sshd, for as long as
it runs. Each destination has one Session Manager session for all its connections; one that has ended is opened again by the next connection.

PORT 0 takes a free port, which is printed; without BIND only this machine can connect; SOCKET:HOST:HOSTPORT listens on a unix socket that only you can use.
Data has to be moved within the limits of Session Manager, less than 1 MB/s per destination.`,
		Example: `  ssm-ssh-gateway forward -L 8080:localhost:80 web-1
  ssm-ssh-gateway forward -L 5432:db.internal:5432 -L /tmp/redis.sock:cache.internal:6379 i-0123456789abcdef0`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			specs, err := parseForwards(locals, reverse)
			if err != nil {
				return &exitError{Code: exitUsage, Err: err}
			}
			return forward(cmd.Context(), aws, alive, specs, args[0], cmd.ErrOrStderr())
		},
	}
	flags := cmd.Flags()
	flags.StringArrayVarP(&locals, "local", "L", nil, "[BIND:]PORT:HOST:HOSTPORT or SOCKET:HOST:HOSTPORT; may be repeated")
	flags.StringArrayVarP(&reverse, "reverse", "R", nil, "not possible with Session Manager")
	_ = flags.MarkHidden("reverse")
	aws.flags(flags)
	alive.flag(flags)
	return cmd
}

func parseForwards(locals, reverse []string) ([]forwardSpec, error) {
	if len(reverse) > 0 {
		return nil, errReverse
	}
	if len(locals) == 0 {
		return nil, fmt.Errorf("nothing to forward: -L is missing; %w", errForwardForm)
	}
	specs := make([]forwardSpec, 0, len(locals))
	for _, text := range locals {
		spec, err := parseForward(text)
		if err != nil {
			return nil, err
		}
		specs = append(specs, spec)
	}
	return specs, nil
}

// forwarder is a running forward command.
type forwarder struct {
	meter   *meter
	tunnels map[string]*tunnel // by destination
	conns   sync.WaitGroup
	slots   chan struct{}
}

// forward listens and forwards until ctx ends.
func forward(ctx context.Context, aws *laptop, alive keepAlive, specs []forwardSpec, target string, stderr io.Writer) error {
	ctx, cancel := untilHangup(ctx)
	defer cancel()
	listeners, err := listenAll(ctx, specs)
	if err != nil {
		return err
	}
	defer func() {
		for _, listener := range listeners {
			_ = listener.Close()
		}
	}()
	cloud, err := aws.open(ctx)
	if err != nil {
		return failedSession(err)
	}
	defer func() { _ = cloud.Close() }()
	on, err := cloud.Resolve(ctx, target)
	if err != nil {
		return failedSession(err)
	}
	f := &forwarder{meter: newMeter(stderr), tunnels: map[string]*tunnel{}, slots: make(chan struct{}, maxForwarded)}
	for i := range specs {
		f.tunnels[specs[i].to()] = &tunnel{to: specs[i].to(), start: starter(cloud, on, &specs[i]), alive: alive, tell: f.meter.say}
	}
	defer f.close()
	if err := f.prove(ctx); err != nil {
		return failedSession(err)
	}
	aws.hush()
	for i, listener := range listeners {
		f.meter.say("%s leads to %s through %s", listener.Addr(), specs[i].to(), on.ID)
	}
	return f.serve(ctx, listeners, specs)
}

// starter gives the call that opens a session to a destination: a port of the machine, always multiplexed, or of a host behind it.
func starter(cloud *awscloud.Cloud, on *authz.Instance, spec *forwardSpec) func(context.Context) (ssmproto.Grant, error) {
	purpose := awscloud.Purpose{
		Document: awscloud.PortDocument, Reason: "ssm-ssh-gateway forward",
		Parameters: map[string][]string{"portNumber": {strconv.Itoa(spec.port)}},
	}
	if spec.host != "" {
		purpose.Document = awscloud.RemoteHostDocument
		purpose.Parameters["host"] = []string{spec.host}
	}
	return func(ctx context.Context) (ssmproto.Grant, error) {
		return cloud.StartSession(ctx, authz.Role{}, on, purpose)
	}
}

// prove opens every session once.
func (f *forwarder) prove(ctx context.Context) error {
	group, ctx := errgroup.WithContext(ctx)
	for _, way := range f.tunnels {
		group.Go(func() error { return way.prove(ctx) })
	}
	return group.Wait()
}

// serve accepts until ctx ends, and waits for the connections, which end with it.
func (f *forwarder) serve(ctx context.Context, listeners []net.Listener, specs []forwardSpec) error {
	stopMeter := f.meter.run()
	defer stopMeter()
	group, ctx := errgroup.WithContext(ctx)
	stop := context.AfterFunc(ctx, func() {
		for _, listener := range listeners {
			_ = listener.Close()
		}
	})
	defer stop()
	for i, listener := range listeners {
		way := f.tunnels[specs[i].to()]
		group.Go(func() error { return f.accept(ctx, listener, way) })
	}
	err := group.Wait()
	f.conns.Wait()
	return err
}

func (f *forwarder) accept(ctx context.Context, listener net.Listener, way *tunnel) error {
	for {
		near, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // we closed it
			}
			return fmt.Errorf("listening on %s: %w", listener.Addr(), err)
		}
		select {
		case f.slots <- struct{}{}:
		default:
			f.meter.say("a connection to %s is refused: %d are open already", way.to, maxForwarded)
			_ = near.Close()
			continue
		}
		f.conns.Go(func() {
			defer func() { <-f.slots }()
			f.carry(ctx, near, way)
		})
	}
}

// carry serves one connection.
func (f *forwarder) carry(ctx context.Context, near net.Conn, way *tunnel) {
	defer f.meter.opened()()
	far, err := way.dial(ctx)
	if err != nil {
		_ = near.Close()
		if ctx.Err() == nil {
			f.meter.say("no connection to %s: %s", way.to, inWords(err))
		}
		return
	}
	err = join(ctx, near, far, f.meter.sent, f.meter.received)
	if errors.Is(err, ssmproto.ErrConnectToPort) {
		f.meter.say("nothing answers on %s", way.to)
	}
}

// close ends the sessions, all at once. What could not be delivered any more is told.
func (f *forwarder) close() {
	var all sync.WaitGroup
	for _, way := range f.tunnels {
		all.Go(func() {
			if err := way.close(); err != nil {
				f.meter.say("%s", err)
			}
		})
	}
	all.Wait()
}

// listenAll opens all listeners or none.
func listenAll(ctx context.Context, specs []forwardSpec) ([]net.Listener, error) {
	var listeners []net.Listener
	for i := range specs {
		listener, err := listenLocal(ctx, &specs[i])
		if err != nil {
			for _, opened := range listeners {
				_ = opened.Close()
			}
			return nil, err
		}
		listeners = append(listeners, listener)
	}
	return listeners, nil
}

// listenLocal opens one. A unix socket is for its owner only, as ssh makes it; one that a dead program has left is replaced.
func listenLocal(ctx context.Context, spec *forwardSpec) (net.Listener, error) {
	listening := net.ListenConfig{}
	listener, err := listening.Listen(ctx, spec.network, spec.address)
	if errors.Is(err, syscall.EADDRINUSE) && abandoned(spec) {
		if err := os.Remove(spec.address); err != nil {
			return nil, err
		}
		listener, err = listening.Listen(ctx, spec.network, spec.address)
	}
	if err != nil {
		return nil, fmt.Errorf("cannot listen on %s: %w", spec.address, err)
	}
	if spec.network == "unix" {
		if err := os.Chmod(spec.address, 0o600); err != nil {
			return nil, errors.Join(err, listener.Close())
		}
	}
	return listener, nil
}

// abandoned says whether a unix socket is there that nobody listens on.
func abandoned(spec *forwardSpec) bool {
	if spec.network != "unix" {
		return false
	}
	conn, err := net.DialTimeout("unix", spec.address, time.Second)
	if err == nil {
		_ = conn.Close()
	}
	return errors.Is(err, syscall.ECONNREFUSED)
}
