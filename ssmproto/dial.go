package ssmproto

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"time"
)

// Dial opens the session of grant and waits for the handshake of the agent, or for its first output if it makes none. The context bounds only
// the opening. When Dial fails, the session has been terminated.
func Dial(ctx context.Context, grant Grant, options *Options) (*Conn, error) {
	return dial(ctx, grant, options, false)
}

func dial(ctx context.Context, grant Grant, options *Options, keepErr bool) (*Conn, error) {
	if grant.SessionID == "" || grant.StreamURL == "" {
		return nil, errors.New("ssmproto: the grant has no session")
	}
	c := newConn(grant, options.resolved())
	c.keepErr = keepErr
	s, err := openSocket(ctx, &c.grant, grant.Token, c.clientID, &c.options)
	if err == nil {
		err = c.start(ctx, s)
	}
	if err != nil {
		c.mu.Lock()
		c.fail(err)
		c.mu.Unlock()
		return nil, errors.Join(err, c.CloseNow())
	}
	return c, nil
}

func newConn(grant Grant, o Options) *Conn {
	c := &Conn{
		grant: grant, options: o, log: o.Logger, clientID: NewUUID(), kick: make(chan struct{}, 1), composing: make(chan struct{}, 1), closed: make(chan struct{}),
		send: sendWindow{limitBytes: o.Window, rate: o.MessageRate},
		recv: recvWindow{limitBytes: o.ReadBuffer},
		pace: newPacer(o.MessageRate, serviceBurst), discovery: newDiscovery(o.MaxPayload, o.DiscoverPayload),
	}
	c.readable.L, c.progress.L = &c.mu, &c.mu
	c.ctx, c.cancel = context.WithCancel(context.Background())
	c.hurry, c.rush = context.WithCancel(context.Background())
	return c
}

// start begins the two goroutines and waits until the session is open.
func (c *Conn) start(ctx context.Context, s *socket) error {
	c.mu.Lock()
	c.enter(Handshaking)
	c.mu.Unlock()
	if err := c.attach(s); err != nil {
		return err
	}
	c.goroutines.Add(2)
	go c.run(s)
	go c.writeLoop()
	return c.awaitOpening(ctx)
}

// awaitOpening waits until the session is open. One that is over again by then was open all the same: what came of it, and be it how it ended, is for who
// reads. A program that says nothing for long, and whose session has no handshake, cannot be told from an agent that is late; for a shell it is taken for the
// former, since such a program may be waiting for input.
func (c *Conn) awaitOpening(ctx context.Context) error {
	limited, cancel := context.WithTimeoutCause(ctx, c.options.HandshakeTimeout, ErrHandshakeTimeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.await(limited, func() bool {
		return c.state == Open || c.state == Closed || (c.state == Resuming && c.resumeTo == Open)
	})
	if c.keepErr && c.state == Handshaking && !c.greeted && errors.Is(context.Cause(limited), ErrHandshakeTimeout) {
		c.presumed = true
		c.opened()
	}
	switch {
	case c.refused != nil && c.state != Open && !errors.Is(c.err, c.refused):
		return fmt.Errorf("%w (%w)", c.refused, cmp.Or(c.err, context.Cause(limited)))
	case c.state == Closed && !c.wasOpen:
		return c.err
	case c.state == Connecting, c.state == Handshaking, c.state == Resuming && c.resumeTo == Handshaking:
		return fmt.Errorf("ssmproto: waiting for the handshake: %w", context.Cause(limited))
	default:
		return nil
	}
}

// await waits until met or the end of ctx. The caller holds mu.
func (c *Conn) await(ctx context.Context, met func() bool) {
	stop := context.AfterFunc(ctx, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.progress.Broadcast()
	})
	defer stop()
	for !met() && ctx.Err() == nil {
		c.progress.Wait()
	}
}

// resumeOnce makes one attempt: a fresh token, and a connection to the original address (SPEC.md §9.3).
func (c *Conn) resumeOnce() (*socket, error) {
	ctx, cancel := context.WithTimeout(c.ctx, c.options.HandshakeTimeout)
	defer cancel()
	token, err := c.grant.Resume(ctx, c.grant.SessionID)
	if err != nil {
		return nil, fmt.Errorf("ssmproto: resume the session: %w", err)
	}
	return openSocket(c.ctx, &c.grant, token, c.clientID, &c.options)
}

// attach puts s in use. Sequence numbers continue; everything unacknowledged is due again.
func (c *Conn) attach(s *socket) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if c.state == Closed {
		s.close()
		return c.err
	}
	if c.state == Resuming {
		c.enter(c.resumeTo)
	}
	if c.send.next > 0 || c.recv.expected > 0 {
		c.counts.resumes++
	}
	c.socket = s
	outage := time.Duration(0)
	if !c.lostAt.IsZero() {
		outage = now.Sub(c.lostAt)
	}
	c.lostAt = time.Time{}
	c.vigil.skip(outage)
	c.paused = time.Time{}
	c.pingAt = now.Add(c.options.PingInterval)
	c.send.reconnected(now, outage)
	if c.counts.resumes > 0 {
		c.discovery.reconnected()
	}
	c.wake()
	return nil
}

// detach notes that there is no connection. The caller holds mu.
func (c *Conn) detach() {
	c.socket = nil
	if c.lostAt.IsZero() {
		c.lostAt = time.Now()
	}
}
