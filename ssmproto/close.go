package ssmproto

import (
	"context"
	"fmt"
	"net"
	"time"
)

// goodbyeLimit bounds each of the last two steps of Close: the agent's answer to the TerminateSession flag, and the call that replaces it.
const goodbyeLimit = 2 * time.Second

// Close ends the session politely. It waits until the last data is acknowledged (at most Options.DrainTimeout), asks the agent to end the session
// and waits for its answer (at most 2 s), and if there is none calls Grant.Terminate (at most 2 s more). It returns ErrUndelivered when
// data was left unacknowledged by a session that had not ended. Close may be called several times; it returns when all goroutines have ended.
func (c *Conn) Close() error {
	c.shutdownOnce()
	return c.closeError
}

// CloseNow ends the session at once: unacknowledged data is given up and the agent is not asked. Only Grant.Terminate is still called (at most 2 s),
// because a session that is not terminated stays open on the instance. It cuts short a Close that is under way.
func (c *Conn) CloseNow() error {
	c.rush()
	c.shutdownOnce()
	return nil
}

// shutdownOnce shuts down, or waits for whoever does.
func (c *Conn) shutdownOnce() {
	if c.closing.CompareAndSwap(false, true) {
		c.shutdown()
		close(c.closed)
	}
	<-c.closed
}

func (c *Conn) shutdown() {
	c.mu.Lock()
	c.abandon = true
	c.holdTill = time.Time{}
	draining := c.enter(Draining)
	c.readable.Broadcast()
	c.progress.Broadcast()
	c.wake()
	c.mu.Unlock()
	if draining {
		c.closeError = c.drain()
		c.sayGoodbye()
	}
	c.mu.Lock()
	c.fail(net.ErrClosed)
	ended := c.ended
	c.mu.Unlock()
	c.cancel()
	c.goroutines.Wait()
	c.setDeadline(&c.readLimit, time.Time{})
	c.setDeadline(&c.writeLimit, time.Time{})
	if !ended {
		c.terminate()
	}
	c.rush()
}

// drain waits for the acknowledgement of everything that was written. A flag right behind an upload would cost the upload its tail (SPEC.md §7.2).
func (c *Conn) drain() error {
	ctx, cancel := context.WithTimeout(c.hurry, c.options.DrainTimeout)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.await(ctx, func() bool { return c.send.empty() || c.state == Closed })
	if left := c.send.payload; left > 0 && !c.ended {
		return fmt.Errorf("%w: %d bytes", ErrUndelivered, left)
	}
	return nil
}

// sayGoodbye asks the agent to end the session, and waits until it has agreed or the service has closed the session.
func (c *Conn) sayGoodbye() {
	c.mu.Lock()
	able := c.peer.takesTerminateFlag() && c.send.empty() && c.state == Draining && c.hurry.Err() == nil
	c.mu.Unlock()
	if !able || c.compose(PayloadFlag, FlagTerminateSession.Append(nil), false) != nil {
		return
	}
	ctx, cancel := context.WithTimeout(c.hurry, goodbyeLimit)
	defer cancel()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.await(ctx, func() bool { return c.send.empty() || c.state == Closed })
	c.ended = c.ended || c.send.empty()
}

// terminate tells the service that the session is over. A failure is logged: the service ends idle sessions by itself.
func (c *Conn) terminate() {
	if c.grant.Terminate == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), goodbyeLimit)
	defer cancel()
	if err := c.grant.Terminate(ctx, c.grant.SessionID); err != nil {
		c.log.Warn("terminating the session failed", "session", c.grant.SessionID, "cause", err)
	}
}
