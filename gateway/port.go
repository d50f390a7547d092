package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// dialPort gives the default of Config.DialPort.
func dialPort(log *slog.Logger) func(context.Context, ssmproto.Grant, bool) (net.Conn, error) {
	return func(ctx context.Context, grant ssmproto.Grant, peerFirst bool) (net.Conn, error) {
		return ssmproto.DialPort(ctx, grant, &ssmproto.Options{Logger: log, WaitForPeer: peerFirst})
	}
}

// reasonLimit is the longest Reason that StartSession takes.
const reasonLimit = 256

// openPort opens a Session Manager session to a port of the machine as the person's role, within the connect timeout.
func (s *Server) openPort(ctx context.Context, v *visit, r route, peerFirst bool) (net.Conn, string, error) {
	step := &authz.Refusal{Reason: authz.ReasonTimeout, Subject: r.named, Action: "the Session Manager session to " + r.named}
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Limits.ConnectTimeout, step)
	defer cancel()
	began := time.Now()
	grant, err := s.cfg.Cloud.StartPort(ctx, r.role, r.target, r.port, v.reason())
	if err != nil {
		return nil, "", portError(ctx, r, err)
	}
	v.stage(stepSession, began)
	began = time.Now()
	conn, err := s.cfg.DialPort(ctx, grant, peerFirst)
	if err != nil {
		return nil, grant.SessionID, portError(ctx, r, err)
	}
	v.stage(stepChannel, began)
	v.log.Info("session opened", "session", grant.SessionID, "port", r.port, "role", r.role.ARN)
	return conn, grant.SessionID, nil
}

// reason is what CloudTrail and the session history show of a stay.
func (v *visit) reason() string {
	reason := fmt.Sprintf("ssm-ssh-gateway %s ref %s", v.current().identity.Person, v.ref)
	return reason[:min(len(reason), reasonLimit)]
}

// portError says in our words why there is no session.
func portError(ctx context.Context, r route, err error) error {
	var refusal *authz.Refusal
	var ended *ssmproto.SessionEndedError
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("open port %d of %s: %w (%w)", r.port, r.target.ID, context.Cause(ctx), err)
	case errors.As(err, &refusal):
		return fmt.Errorf("open port %d of %s: %w", r.port, r.target.ID, err)
	case errors.Is(err, ssmproto.ErrConnectToPort):
		return portRefused(r, err)
	case errors.As(err, &ended):
		return &authz.Refusal{Reason: authz.ReasonSessionEnded, Subject: r.named, Detail: ended.Output, Cause: err}
	case errors.Is(err, ssmproto.ErrHandshakeTimeout):
		return &authz.Refusal{Reason: authz.ReasonTimeout, Subject: r.named, Action: "the SSM agent of " + r.named, Cause: err}
	}
	return &authz.Refusal{Reason: authz.ReasonCloud, Subject: r.named, Detail: "the data channel could not be opened", Cause: err}
}

// carrier is the connection to a machine's port as an SSH client uses it. It notices what the client's errors do not tell: whether anything was ever heard, and what
// ended the reading.
type carrier struct {
	net.Conn
	live atomic.Bool // logged in: what is read from now on is not looked at

	mu     sync.Mutex
	first  *time.Timer // runs while nothing has been heard
	some   bool
	lost   error
	closed bool
}

// expectFirst calls mute when nothing is heard within limit.
func (c *carrier) expectFirst(limit time.Duration, mute func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.first = time.AfterFunc(limit, mute)
}

// Read notes what it sees.
func (c *carrier) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 && err == nil && c.live.Load() { // the hot path
		return n, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if n > 0 || err != nil {
		c.some = c.some || n > 0
		if c.first != nil {
			c.first.Stop()
		}
	}
	if err != nil && c.lost == nil && !c.closed {
		c.lost = err
	}
	return n, err
}

// Close ends the connection; read errors after it are our own doing and not kept.
func (c *carrier) Close() error {
	c.mu.Lock()
	c.closed = true
	if c.first != nil {
		c.first.Stop()
	}
	c.mu.Unlock()
	return c.Conn.Close()
}

// abandon ends a connection that led nowhere, without waiting for the machine to take what it will never take. AWS is still told.
func (c *carrier) abandon() {
	atOnce, ok := c.Conn.(interface{ CloseNow() error })
	if ok {
		c.mu.Lock()
		c.closed = true
		c.mu.Unlock()
		_ = atOnce.CloseNow()
	}
	_ = c.Close()
}

// heard reports whether the machine has sent anything.
func (c *carrier) heard() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.some
}

// readError is what ended the reading from the other side; nil while it has not.
func (c *carrier) readError() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost
}
