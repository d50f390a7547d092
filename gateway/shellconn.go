package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// shellSessions is how many sessions one connection takes at once: sshd's own default (MaxSessions).
const shellSessions = 10

// shellConn stands in for the SSH connection to a machine without sshd, so that everything above it, policy and audit among it, is as with one. Each of its
// sessions is a Session Manager session of its own; there are no other channels.
type shellConn struct {
	srv     *Server
	visit   *visit
	starter ShellStarter
	ctx     context.Context // ends when the connection is closed
	cancel  context.CancelFunc
	chans   chan ssh.NewChannel // the machine opens none
	reqs    chan *ssh.Request   // and asks for nothing; both are closed when all sessions have ended
	tasks   sync.WaitGroup      // the sessions

	mu     sync.Mutex
	open   int
	closed bool
}

// newShellConn makes a connection for a stay. It lasts until it is closed, whatever becomes of the stay: who closes it knows why.
func newShellConn(v *visit, starter ShellStarter) *shellConn {
	c := &shellConn{srv: v.conn.srv, visit: v, starter: starter, chans: make(chan ssh.NewChannel), reqs: make(chan *ssh.Request)}
	c.ctx, c.cancel = context.WithCancel(context.WithoutCancel(v.ctx))
	return c
}

// OpenChannel opens a session, and refuses everything else in words.
func (c *shellConn) OpenChannel(kind string, _ []byte) (ssh.Channel, <-chan *ssh.Request, error) {
	if kind != "session" {
		refusal := &authz.Refusal{Reason: authz.ReasonNoSSHD, Subject: c.visit.current().named, Action: kind}
		return nil, nil, &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: c.visit.text(refusal)}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.closed:
		return nil, nil, fmt.Errorf("open a session: %w", net.ErrClosed)
	case c.open == shellSessions:
		return nil, nil, &ssh.OpenChannelError{Reason: ssh.ResourceShortage, Message: "too many sessions"}
	}
	c.open++
	s := newShellChannel(c)
	c.tasks.Go(func() { // under mu: Close waits for tasks when there will be no more
		defer c.gone()
		defer logPanic(c.visit.log, "Session Manager shell")
		s.serve()
	})
	return s, s.reqs, nil
}

func (c *shellConn) gone() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open--
}

// SendRequest answers no, which is an answer to keepalives, too.
func (c *shellConn) SendRequest(string, bool, []byte) (bool, []byte, error) {
	if c.ctx.Err() != nil {
		return false, nil, net.ErrClosed
	}
	return false, nil, nil
}

// Close ends all sessions. It does not wait for them: whoever serves the streams does.
func (c *shellConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil
	}
	c.closed = true
	c.cancel()
	go func() { // ends with the sessions
		c.tasks.Wait()
		close(c.chans)
		close(c.reqs)
	}()
	return nil
}

// Wait returns when the connection has been closed.
func (c *shellConn) Wait() error {
	<-c.ctx.Done()
	return io.EOF
}

// What follows describes a connection; there is none.

// User is the OS user.
func (c *shellConn) User() string { return c.srv.cfg.SessionUser }

// SessionID is nothing.
func (c *shellConn) SessionID() []byte { return nil }

// ClientVersion is the gateway's.
func (c *shellConn) ClientVersion() []byte { return []byte(serverVersion) }

// ServerVersion is nothing.
func (c *shellConn) ServerVersion() []byte { return nil }

// RemoteAddr is nobody's.
func (c *shellConn) RemoteAddr() net.Addr { return &net.TCPAddr{} }

// LocalAddr is nobody's.
func (c *shellConn) LocalAddr() net.Addr { return &net.TCPAddr{} }
