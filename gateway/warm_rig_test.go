package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// warmWorld is a world in which sessions wait for a next connection.
func warmWorld(t *testing.T, o worldOptions) *world {
	t.Helper()
	change := o.cfg
	o.cfg = func(c *Config) {
		c.KeepWarm = time.Hour
		c.Verifier = &pickyVerifier{Verifier: c.Verifier}
		if change != nil {
			change(c)
		}
	}
	w := newWorld(t, o)
	w.srv.warm.patience = testkit.Patience
	return w
}

// pickyVerifier can be made to refuse the next key.
type pickyVerifier struct {
	Verifier
	refuse atomic.Bool
}

// CheckNamed implements Verifier.
func (p *pickyVerifier) CheckNamed(
	ctx context.Context, place string, names []string, key ssh.PublicKey, console func(context.Context) (string, error),
) (string, error) {
	if p.refuse.Swap(false) {
		return "", &authz.Refusal{Reason: authz.ReasonHostKeyChanged, Subject: place}
	}
	return p.Verifier.CheckNamed(ctx, place, names, key, console)
}

// visitMachine logs in as osUser, asks the machine who that is, does what else the test wants, and leaves.
func (w *world) visitMachine(t *testing.T, osUser string, key ssh.Signer, also func(*ssh.Client)) {
	t.Helper()
	client := w.mustConnect(t, as(osUser+"@"+worldInstance, key))
	if out, _, _ := run(t, client, "whoami"); out != osUser+"\n" {
		t.Errorf("whoami: %q", out)
	}
	if also != nil {
		also(client)
	}
	w.leave(t, client)
}

// leave closes a connection and waits until the gateway has noticed.
func (w *world) leave(t *testing.T, client *ssh.Client) {
	t.Helper()
	before := w.audit.count(EventConnectionClosed)
	_ = client.Close()
	testkit.Eventually(t, "the end of the connection", func() bool { return w.audit.count(EventConnectionClosed) > before })
}

func (h *heldAudit) count(event string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := 0
	for _, e := range h.events {
		if e.Event == event {
			n++
		}
	}
	return n
}

// taken is how many seats are, by persons and by machines together.
func (s *laneSeats) taken() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, by := range []map[string]int{s.byPerson, s.byMachine} {
		for _, count := range by {
			n += count
		}
	}
	return n
}

// started is how many sessions have ever been started.
func (f *fakeCloud) started() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.next
}

// fakeConn is a connection to a machine that answers, until it is closed or told not to.
type fakeConn struct {
	ssh.Conn
	mute   bool
	once   sync.Once
	closed chan struct{}
	chans  chan ssh.NewChannel
	reqs   chan *ssh.Request
}

// fakeLink is a link over a fakeConn. It lives in a bubble of virtual time as well as outside.
func fakeLink() (*link, *fakeConn) {
	conn := &fakeConn{closed: make(chan struct{}), chans: make(chan ssh.NewChannel), reqs: make(chan *ssh.Request)}
	return newLink(bridge.Leg{Conn: conn, Chans: conn.chans, Reqs: conn.reqs}, linkFacts{sessionID: "alice-1"}, func(err error) error { return err }), conn
}

// SendRequest implements ssh.Conn.
func (c *fakeConn) SendRequest(string, bool, []byte) (bool, []byte, error) {
	if c.mute {
		<-c.closed
	}
	select {
	case <-c.closed:
		return false, nil, net.ErrClosed
	default:
		return false, nil, nil
	}
}

// Wait implements ssh.Conn.
func (c *fakeConn) Wait() error {
	<-c.closed
	return errors.New("closed")
}

// Close implements ssh.Conn.
func (c *fakeConn) Close() error {
	c.once.Do(func() {
		close(c.closed)
		close(c.chans)
		close(c.reqs)
	})
	return nil
}

// fakeOpening is a channel that the machine wants to open.
type fakeOpening struct{ reason ssh.RejectionReason }

// Accept implements ssh.NewChannel.
func (*fakeOpening) Accept() (ssh.Channel, <-chan *ssh.Request, error) { return nil, nil, io.EOF }

// ChannelType implements ssh.NewChannel.
func (*fakeOpening) ChannelType() string { return "auth-agent@openssh.com" }

// ExtraData implements ssh.NewChannel.
func (*fakeOpening) ExtraData() []byte { return nil }

// Reject implements ssh.NewChannel.
func (f *fakeOpening) Reject(reason ssh.RejectionReason, _ string) error {
	f.reason = reason
	return nil
}
