package ssmproto

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// Ours to choose: how often to ask for a new connection. AWS's own client gives up after some seconds, and the service closes every
// connection after about an hour (SPEC.md §9.3).
const (
	firstResumeDelay = 100 * time.Millisecond
	lastResumeDelay  = 10 * time.Second
)

// outage remembers a loss until something is heard again, so that connections which open and fall at once do not make a busy loop.
type outage struct {
	since time.Time
	delay time.Duration // before the next attempt
}

// run is the goroutine that reads, and reconnects when the connection is lost. It ends with the session.
func (c *Conn) run(s *socket) {
	defer c.goroutines.Done()
	var out outage
	for {
		began := time.Now()
		heard, err := c.readFrames(s)
		if heard || time.Since(began) > c.options.PingInterval {
			out = outage{}
		}
		if out.since.IsZero() {
			out.since = time.Now()
		}
		if s, err = c.reconnect(s, err, &out); err != nil {
			c.mu.Lock()
			c.fail(err)
			c.mu.Unlock()
			return
		}
	}
}

// reconnect replaces the lost connection.
func (c *Conn) reconnect(lost *socket, cause error, out *outage) (*socket, error) {
	lost.close()
	c.mu.Lock()
	c.detach()
	if c.state == Handshaking || c.state == Open {
		c.resumeTo = c.state
		c.enter(Resuming)
	}
	over := c.state == Closed
	c.mu.Unlock()
	if over {
		return nil, cause
	}
	if c.grant.Resume == nil {
		return nil, fmt.Errorf("%w: %w", ErrConnectionLost, cause)
	}
	c.log.Info("connection lost, resuming the session", "session", c.grant.SessionID, "cause", cause)
	s, err := c.resume(out, cause)
	if err != nil {
		return nil, err
	}
	return s, c.attach(s)
}

// resume asks for new tokens and connects until one attempt succeeds, the session is over, or the outage is too long.
func (c *Conn) resume(out *outage, cause error) (*socket, error) {
	for {
		if lasted := time.Since(out.since); lasted >= c.options.ResumeFor {
			return nil, fmt.Errorf("%w for %v: %w", ErrConnectionLost, lasted.Round(time.Second), cause)
		}
		if !c.sleep(out.delay) {
			return nil, c.ctx.Err()
		}
		out.delay = min(max(firstResumeDelay, 2*out.delay), lastResumeDelay)
		s, err := c.resumeOnce()
		switch {
		case err == nil:
			return s, nil
		case errors.Is(err, ErrSessionOver):
			return nil, fmt.Errorf("ssmproto: session %s ended while the connection was lost: %w", c.grant.SessionID, err)
		case c.ctx.Err() != nil:
			return nil, err
		}
		cause = err
		c.log.Debug("resuming failed", "session", c.grant.SessionID, "cause", err)
	}
}

// sleep waits for about d, or less if the session ends: then it returns false.
func (c *Conn) sleep(d time.Duration) bool {
	if d <= 0 {
		return c.ctx.Err() == nil
	}
	timer := time.NewTimer(d/2 + rand.N(d)) //nolint:gosec // spreads attempts, guards nothing
	defer timer.Stop()
	select {
	case <-c.ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}
