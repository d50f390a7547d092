package bridge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// allGrants is a plain key without options.
var allGrants = authz.ChannelGrants{PTY: true, PortForwarding: true, AgentForwarding: true, X11Forwarding: true}

// rig is a client, a bridge, and a machine that does as the test says, each on loopback TCP.
type rig struct {
	client ssh.Conn
	opens  <-chan ssh.NewChannel // what the machine opens, as it arrives at the client
	global <-chan *ssh.Request
	target *scriptedTarget
	watch  *recorder
	gate   *scriptedGate
	done   chan error // Run's answer
	cancel context.CancelCauseFunc
}

// scriptedTarget is the machine's SSH server. Its conn is there once up was called.
type scriptedTarget struct {
	onOpen   func(ssh.NewChannel)
	onGlobal func(ssh.Conn, *ssh.Request)
	mute     <-chan struct{} // while open, nothing is answered
	ready    chan struct{}
	conn     ssh.Conn
	raw      net.Conn
}

// rigOptions changes what newRig would do.
type rigOptions struct {
	onOpen   func(ssh.NewChannel)
	onGlobal func(ssh.Conn, *ssh.Request)
	mute     <-chan struct{}
	config   func(*Config)
	up       func(context.Context) (*Link, error) // instead of the scripted target
	wrap     func(Leg) Leg                        // around the client's leg, as the bridge sees it
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	r := &rig{
		target: &scriptedTarget{onOpen: o.onOpen, onGlobal: o.onGlobal, mute: o.mute, ready: make(chan struct{})},
		watch:  newRecorder(), gate: &scriptedGate{}, done: make(chan error, 1),
	}
	near, far := testkit.TCPPair(t)
	inbound := make(chan Leg, 1)
	go func() { inbound <- serverLeg(t, far) }()
	conn, chans, reqs, err := ssh.NewClientConn(near, "gateway", &ssh.ClientConfig{User: "ec2-user", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	r.client, r.opens, r.global = conn, chans, reqs

	cfg := Config{Grants: allGrants, Gate: r.gate, Watch: r.watch, Text: func(err error) string { return "text: " + err.Error() }}
	if o.config != nil {
		o.config(&cfg)
	}
	up := o.up
	if up == nil {
		up = func(context.Context) (*Link, error) { return r.target.connect(t) }
	}
	client := <-inbound
	if o.wrap != nil {
		client = o.wrap(client)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancel = cancel
	go func() { r.done <- Run(ctx, client, up, cfg) }()
	t.Cleanup(func() {
		_ = r.client.Close()
		r.wait(t)
		cancel(nil)
		testkit.Drain(r.opens, r.global)
	})
	return r
}

// wait gives Run's answer. It may be called again.
func (r *rig) wait(t testing.TB) error {
	t.Helper()
	err := testkit.Receive(t, r.done, "the end of the bridge")
	r.done <- err
	return err
}

// connect is what up does: one TCP connection, an SSH server on its far end.
func (s *scriptedTarget) connect(t testing.TB) (*Link, error) {
	near, far := testkit.TCPPair(t)
	s.raw = far
	go func() {
		l := serverLeg(t, far)
		if l.Conn == nil {
			return
		}
		s.conn = l.Conn
		go func() {
			for nc := range l.Chans {
				if s.onOpen == nil {
					_ = nc.Reject(ssh.ConnectionFailed, "nothing here")
					continue
				}
				go s.onOpen(nc)
			}
		}()
		close(s.ready)
		for req := range l.Reqs {
			if s.mute != nil {
				<-s.mute
			}
			if s.onGlobal != nil && req.Type != KeepAliveRequest {
				s.onGlobal(l.Conn, req)
				continue
			}
			_ = req.Reply(false, nil)
		}
	}()
	conn, chans, reqs, err := ssh.NewClientConn(near, "target", &ssh.ClientConfig{User: "ec2-user", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		return nil, err
	}
	return NewLink(Leg{conn, chans, reqs}, asItIs), nil
}

// asItIs words the end of a link.
func asItIs(err error) error { return err }

// session opens one on the client's side and fails the test if that is refused.
func (r *rig) session(t testing.TB) *ssh.Session {
	t.Helper()
	s, err := r.asClient().NewSession()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// asClient is the client's connection with the library's conveniences; the incoming streams stay with the test.
func (r *rig) asClient() *ssh.Client { return &ssh.Client{Conn: r.client} }

// channel opens one on the client's side.
func (r *rig) channel(t testing.TB, kind string, payload []byte) (ssh.Channel, <-chan *ssh.Request) {
	t.Helper()
	ch, reqs, err := r.client.OpenChannel(kind, payload)
	if err != nil {
		t.Fatalf("opening %s: %v", kind, err)
	}
	return ch, reqs
}

// refusedOpen opens a channel that must be refused, and gives the refusal.
func refusedOpen(t testing.TB, conn ssh.Conn, kind string, payload []byte) *ssh.OpenChannelError {
	t.Helper()
	_, _, err := conn.OpenChannel(kind, payload)
	var refusal *ssh.OpenChannelError
	if !errors.As(err, &refusal) {
		t.Fatalf("opening %s: got %v, want a refusal", kind, err)
	}
	return refusal
}

// scriptedGate refuses the actions it is told to.
type scriptedGate struct {
	mu     sync.Mutex
	forbid map[authz.Action]bool
	asked  []string // action host:port
}

func (g *scriptedGate) Permit(action authz.Action, host string, port int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.asked = append(g.asked, fmt.Sprintf("%s %s:%d", action, host, port))
	if g.forbid[action] {
		return &authz.Refusal{Reason: authz.ReasonNotPermitted, Subject: string(action)}
	}
	return nil
}

// recorder is an observer that remembers.
type recorder struct {
	mu       sync.Mutex
	requests []string
	globals  []string
	opened   int
	closed   chan *ChannelInfo
}

func newRecorder() *recorder { return &recorder{closed: make(chan *ChannelInfo, 10000)} }

func (r *recorder) ChannelOpened(*ChannelInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened++
}

func (r *recorder) ChannelRequest(_ *ChannelInfo, name, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, name+" "+detail)
}

func (r *recorder) ChannelClosed(c *ChannelInfo) { r.closed <- c }

func (r *recorder) GlobalRequest(name, detail string, allowed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !allowed {
		name += RefusedSuffix
	}
	r.globals = append(r.globals, name+" "+detail)
}

// serverLeg is the gateway's side of a client's connection.
func serverLeg(t testing.TB, conn net.Conn) Leg {
	server, chans, reqs := testkit.ServeSSH(t, conn)
	return Leg{Conn: server, Chans: chans, Reqs: reqs}
}
