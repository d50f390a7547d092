package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// rigPatience bounds every wait of these tests; nothing is asserted about how long things take.
const rigPatience = 20 * time.Second

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
	done   chan error // runBridge's answer
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
	config   func(*bridgeConfig)
	up       func(context.Context) (*link, error) // instead of the scripted target
	wrap     func(leg) leg                        // around the client's leg, as the bridge sees it
}

func newRig(t testing.TB, o rigOptions) *rig {
	t.Helper()
	r := &rig{
		target: &scriptedTarget{onOpen: o.onOpen, onGlobal: o.onGlobal, mute: o.mute, ready: make(chan struct{})},
		watch:  newRecorder(), gate: &scriptedGate{}, done: make(chan error, 1),
	}
	near, far := tcpPair(t)
	inbound := make(chan leg, 1)
	go func() { inbound <- serverLeg(t, far) }()
	conn, chans, reqs, err := ssh.NewClientConn(near, "gateway", &ssh.ClientConfig{User: "ec2-user", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	r.client, r.opens, r.global = conn, chans, reqs

	cfg := bridgeConfig{grants: allGrants, gate: r.gate, watch: r.watch, text: func(err error) string { return "text: " + err.Error() }}
	if o.config != nil {
		o.config(&cfg)
	}
	up := o.up
	if up == nil {
		up = func(context.Context) (*link, error) { return r.target.connect(t) }
	}
	client := <-inbound
	if o.wrap != nil {
		client = o.wrap(client)
	}
	ctx, cancel := context.WithCancelCause(context.Background())
	r.cancel = cancel
	go func() { r.done <- runBridge(ctx, client, up, cfg) }()
	t.Cleanup(func() {
		_ = r.client.Close()
		r.wait(t)
		cancel(nil)
		drainLeg(r.opens, r.global)
	})
	return r
}

// wait gives runBridge's answer. It may be called again.
func (r *rig) wait(t testing.TB) error {
	t.Helper()
	err := receive(t, r.done, "the end of the bridge")
	r.done <- err
	return err
}

// connect is what up does: one TCP connection, an SSH server on its far end.
func (s *scriptedTarget) connect(t testing.TB) (*link, error) {
	near, far := tcpPair(t)
	s.raw = far
	go func() {
		l := serverLeg(t, far)
		if l.conn == nil {
			return
		}
		s.conn = l.conn
		go func() {
			for nc := range l.chans {
				if s.onOpen == nil {
					_ = nc.Reject(ssh.ConnectionFailed, "nothing here")
					continue
				}
				go s.onOpen(nc)
			}
		}()
		close(s.ready)
		for req := range l.reqs {
			if s.mute != nil {
				<-s.mute
			}
			if s.onGlobal != nil && req.Type != keepAliveRequest {
				s.onGlobal(l.conn, req)
				continue
			}
			_ = req.Reply(false, nil)
		}
	}()
	conn, chans, reqs, err := ssh.NewClientConn(near, "target", &ssh.ClientConfig{User: "ec2-user", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		return nil, err
	}
	return newLink(leg{conn, chans, reqs}, linkFacts{}, asItIs), nil
}

// asItIs words the end of a link.
func asItIs(err error) error { return err }

func tcpPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			close(accepted)
			return
		}
		accepted <- conn
	}()
	if near, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	far = receive(t, accepted, "the TCP connection")
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// rigHostKey is made once; making keys is not what is tested.
var rigHostKey = sync.OnceValue(func() ssh.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		panic(err)
	}
	return signer
})

func serverLeg(t testing.TB, conn net.Conn) leg {
	config := &ssh.ServerConfig{NoClientAuth: true, ServerVersion: "SSH-2.0-OpenSSH_compatible_test"}
	config.AddHostKey(rigHostKey())
	server, chans, reqs, err := ssh.NewServerConn(conn, config)
	switch {
	case errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET), errors.Is(err, io.EOF):
		return leg{} // the bridge has ended while it was connecting
	case err != nil:
		t.Errorf("test server: %v", err)
		return leg{}
	}
	return leg{server, chans, reqs}
}

// drainLeg serves what a test left alone, until the connection ends. reqs is nil when nobody is to answer them.
func drainLeg(opens <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	if reqs != nil {
		go ssh.DiscardRequests(reqs)
	}
	for nc := range opens {
		_ = nc.Reject(ssh.Prohibited, "")
	}
}

// receive waits for one value.
func receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(rigPatience):
		t.Fatalf("waited too long for %s", what)
		panic("unreachable")
	}
}

// within runs f and fails the test if it does not return.
func within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	receive(t, done, what)
}

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

func (g *scriptedGate) permit(action authz.Action, host string, port int) error {
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
	closed   chan *channelInfo
}

func newRecorder() *recorder { return &recorder{closed: make(chan *channelInfo, 10000)} }

func (r *recorder) channelOpened(*channelInfo) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened++
}

func (r *recorder) channelRequest(_ *channelInfo, name, detail string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = append(r.requests, name+" "+detail)
}

func (r *recorder) channelClosed(c *channelInfo) { r.closed <- c }

func (r *recorder) globalRequest(name, detail string, allowed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !allowed {
		name += refusedSuffix
	}
	r.globals = append(r.globals, name+" "+detail)
}
