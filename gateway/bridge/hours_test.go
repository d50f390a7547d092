package bridge

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// TestKeepalivesForHours: a connection on which nothing happens but keepalives, ours and those of both peers, is there after a night, and ends when the machine
// falls silent. The night is virtual.
func TestKeepalivesForHours(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, atGateway := memoryPair()
		toMachine, machine := memoryPair()
		inbound := make(chan Leg, 1)
		go func() { inbound <- serverLeg(t, atGateway) }()
		person := clientLeg(t, client)
		atMachine := make(chan Leg, 1)
		go func() { atMachine <- serverLeg(t, machine) }()
		up := NewLink(clientLeg(t, toMachine), asItIs)
		far := <-atMachine

		ended := make(chan error, 1)
		cfg := Config{Grants: allGrants, Gate: &scriptedGate{}, Watch: newRecorder(), Text: error.Error, Eager: true}
		go func() {
			ended <- Run(t.Context(), <-inbound, func(context.Context) (*Link, error) { return up, nil }, cfg)
		}()
		go testkit.Drain(person.Chans, nil)
		go answerUntil(person.Reqs, nil)
		hush := make(chan struct{})
		go answerUntil(far.Reqs, hush)
		go func() {
			for nc := range far.Chans {
				go testkit.CountInput(nc)
			}
		}()

		morning := time.Now().Add(8 * time.Hour)
		for time.Now().Before(morning) {
			for _, peer := range []ssh.Conn{person.Conn, far.Conn} {
				if ok, _, err := peer.SendRequest(KeepAliveRequest, true, nil); ok || err != nil {
					t.Fatalf("a keepalive was answered with %v, %v", ok, err)
				}
			}
			time.Sleep(15 * time.Second)
		}
		ch, reqs, err := person.Conn.OpenChannel("direct-tcpip", directTo("x", 1))
		if err != nil {
			t.Fatalf("in the morning: %v", err)
		}
		go ssh.DiscardRequests(reqs)
		_ = ch.Close()

		close(hush)
		if err := <-ended; !errors.Is(err, errTargetMute) {
			t.Errorf("ended with %v", err)
		}
		_ = person.Conn.Close()
		_ = far.Conn.Close()
	})
}

// TestMachineThatComesBack: a client that came while the machine was away, and stays, has what it asks for once the machine is there.
func TestMachineThatComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, atGateway := memoryPair()
		inbound := make(chan Leg, 1)
		go func() { inbound <- serverLeg(t, atGateway) }()
		person := clientLeg(t, client)
		go testkit.Drain(person.Chans, nil)
		go answerUntil(person.Reqs, nil)

		attempts := 0
		up := func(context.Context) (*Link, error) {
			if attempts++; attempts == 1 {
				return nil, errors.New("it reboots")
			}
			toMachine, machine := memoryPair()
			far := make(chan Leg, 1)
			go func() { far <- serverLeg(t, machine) }()
			link := NewLink(clientLeg(t, toMachine), asItIs)
			go func() {
				there := <-far
				go answerUntil(there.Reqs, nil)
				for nc := range there.Chans {
					go testkit.CountInput(nc)
				}
			}()
			return link, nil
		}
		ended := make(chan error, 1)
		cfg := Config{Grants: allGrants, Gate: &scriptedGate{}, Watch: newRecorder(), Text: error.Error, Eager: true}
		go func() { ended <- Run(t.Context(), <-inbound, up, cfg) }()

		for range 2 {
			if refusal := refusedOpen(t, person.Conn, "direct-tcpip", directTo("x", 1)); refusal.Message != "it reboots" {
				t.Errorf("while it is away: %v", refusal)
			}
		}
		time.Sleep(laneRetry)
		ch, reqs, err := person.Conn.OpenChannel("direct-tcpip", directTo("x", 1))
		if err != nil {
			t.Fatalf("when it is back: %v", err)
		}
		go ssh.DiscardRequests(reqs)
		_ = ch.Close()
		_ = person.Conn.Close()
		if err := <-ended; err != nil {
			t.Errorf("ended with %v", err)
		}
		if attempts != 2 {
			t.Errorf("%d attempts", attempts)
		}
	})
}

// answerUntil answers requests until it is told to fall silent; then it only takes them.
func answerUntil(reqs <-chan *ssh.Request, hush <-chan struct{}) {
	for req := range reqs {
		if !closedAlready(hush) {
			_ = req.Reply(false, nil)
		}
	}
}

func clientLeg(t *testing.T, conn net.Conn) Leg {
	t.Helper()
	c, chans, reqs, err := ssh.NewClientConn(conn, "far", &ssh.ClientConfig{User: "ec2-user", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	return Leg{c, chans, reqs}
}

// memoryPair is a connection in memory that holds what has been written until it is read, as TCP does: with net.Pipe both ends of an SSH connection
// would wait for the other to read its version.
func memoryPair() (net.Conn, net.Conn) {
	there, back := newMemory(), newMemory()
	near, far := net.Pipe() // for its addresses and deadlines, which nobody asks for here
	return &memoryConn{near, back, there}, &memoryConn{far, there, back}
}

type memoryConn struct {
	net.Conn
	in, out *memory
}

func (c *memoryConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memoryConn) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *memoryConn) Close() error {
	c.in.close()
	c.out.close()
	return c.Conn.Close()
}

// memory is one direction.
type memory struct {
	mu     sync.Mutex
	turn   *sync.Cond
	held   []byte
	closed bool
}

func newMemory() *memory {
	m := &memory{}
	m.turn = sync.NewCond(&m.mu)
	return m
}

func (m *memory) read(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.held) == 0 && !m.closed {
		m.turn.Wait()
	}
	if len(m.held) == 0 {
		return 0, io.EOF
	}
	n := copy(p, m.held)
	m.held = m.held[n:]
	return n, nil
}

func (m *memory) write(p []byte) (int, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.closed {
		return 0, net.ErrClosed
	}
	m.held = append(m.held, p...)
	m.turn.Signal()
	return len(p), nil
}

func (m *memory) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.closed = true
	m.turn.Broadcast()
}
