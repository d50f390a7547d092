package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"
)

// master is one SSH connection on a route, kept open, through which further commands go: so that what is timed begins without a login, and so that
// keystrokes and bulk share a connection.
type master struct {
	route  *route
	socket string
	cmd    *exec.Cmd
	stop   context.CancelFunc
}

var masters atomic.Int64 // numbers the sockets

// The plugin may try again: now and then its first bytes come before the agent has dialed sshd, are acknowledged and dropped, and each end waits for the
// other until sshd's LoginGraceTime.
const (
	pluginTries = 3
	pluginLimit = 10 * time.Second
)

// open logs in, and leaves the connection open.
func (r *route) open(ctx context.Context) (m *master, err error) {
	if r.name != pluginName {
		return r.login(ctx, startLimit)
	}
	for range pluginTries {
		if m, err = r.login(ctx, pluginLimit); err == nil {
			break
		}
	}
	return m, err
}

func (r *route) login(ctx context.Context, limit time.Duration) (*master, error) {
	if err := r.world.pusher.letIn(ctx); err != nil {
		return nil, err
	}
	patience, done := context.WithTimeout(ctx, limit)
	defer done()
	ctx, stop := context.WithCancel(ctx)
	m := &master{route: r, socket: filepath.Join(r.world.bench.dir, fmt.Sprintf("m%d", masters.Add(1))), stop: stop}
	m.cmd = r.command(ctx, "ssh", "-M", "-S", m.socket, "-N", "machine")
	m.cmd.WaitDelay = time.Second
	var said limitedBuffer
	m.cmd.Stderr = &said
	if err := m.cmd.Start(); err != nil {
		stop()
		return nil, err
	}
	// The socket appears after the login.
	if err := await(patience, "a login by "+r.name, m.listening); err != nil {
		m.close()
		return nil, fmt.Errorf("%w: %s", err, said.String())
	}
	return m, nil
}

// openAll logs in by several routes, which is not timed: at once, unless there are no delays that would keep the plugin's first bytes from coming too soon. Each that is
// open is returned, in the order of the routes, also beside an error.
func openAll(ctx context.Context, routes []*route) (open []*master, err error) {
	all, errs := make([]*master, len(routes)), make([]error, len(routes))
	var logins errgroup.Group
	if routes[0].world.rtt == 0 {
		logins.SetLimit(1)
	}
	for i, r := range routes {
		logins.Go(func() error {
			if all[i], errs[i] = r.open(ctx); errs[i] != nil {
				errs[i] = fmt.Errorf("%s: %w", r.name, r.explain(errs[i]))
			}
			return nil
		})
	}
	_ = logins.Wait() // the errors are in errs
	return slices.DeleteFunc(all, func(m *master) bool { return m == nil }), errors.Join(errs...)
}

func closeAll(masters []*master) {
	var ends sync.WaitGroup
	for _, m := range masters {
		ends.Go(m.close)
	}
	ends.Wait()
}

func (m *master) listening() bool {
	conn, err := net.Dial("unix", m.socket)
	if err == nil {
		_ = conn.Close()
	}
	return err == nil
}

// close lets the connection end politely, or ends it.
func (m *master) close() {
	late := time.AfterFunc(5*time.Second, m.stop)
	defer late.Stop()
	defer m.stop()
	exit := exec.Command("ssh", "-F", m.route.config, "-S", m.socket, "-O", "exit", "machine")
	if exit.Run() != nil {
		m.stop()
	}
	_ = m.cmd.Wait() // its status says how it was ended, which is known
}

// ssh is a command on the machine, through the connection.
func (m *master) ssh(ctx context.Context, command string) *exec.Cmd {
	return m.route.command(ctx, "ssh", "-S", m.socket, "machine", command)
}

// terminal is the same on a terminal.
func (m *master) terminal(ctx context.Context, command string) *exec.Cmd {
	return m.route.command(ctx, "ssh", "-S", m.socket, "-tt", "machine", command)
}

// scp copies through the connection.
func (m *master) scp(ctx context.Context, args ...string) *exec.Cmd {
	return m.route.command(ctx, "scp", append([]string{"-q", "-o", "ControlPath=" + m.socket}, args...)...)
}

// carrierTime is what the process that moves the bytes has used so far.
func (m *master) carrierTime() (time.Duration, error) {
	if m.route.carrier == nil {
		return 0, nil
	}
	pid, err := m.route.carrier(m.cmd.Process.Pid)
	if err != nil {
		return 0, err
	}
	return processorTime(pid)
}
