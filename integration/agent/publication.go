package agent

import (
	"context"
	"time"

	"github.com/gorilla/websocket"
)

// pause stops publication until the service, or any sign of the client, starts it again (SPEC.md §4.5).
func (c *channel) pause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.paused {
		c.paused, c.resumed = true, make(chan struct{})
	}
}

func (c *channel) unpause() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.paused {
		c.paused = false
		close(c.resumed)
	}
}

// whilePaused waits until publication is allowed; it is false when ctx ended first. Pumps call it before they read.
func (c *channel) whilePaused(ctx context.Context) bool {
	c.mu.Lock()
	paused, resumed := c.paused, c.resumed
	c.mu.Unlock()
	if !paused {
		return ctx.Err() == nil
	}
	select {
	case <-resumed:
		return true
	case <-ctx.Done():
		return false
	}
}

func (c *channel) isPaused() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.paused
}

func (c *channel) acknowledged(seq int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.acknowledged(seq, time.Now())
	if len(c.out.unacked) == 0 && c.drained != nil {
		close(c.drained)
		c.drained = nil
	}
}

// awaitDrained waits until all output is acknowledged, at most closeWait.
func (c *channel) awaitDrained(ctx context.Context) {
	c.mu.Lock()
	if len(c.out.unacked) == 0 {
		c.mu.Unlock()
		return
	}
	if c.drained == nil {
		c.drained = make(chan struct{})
	}
	drained := c.drained
	c.mu.Unlock()
	limit := time.NewTimer(closeWait)
	defer limit.Stop()
	select {
	case <-drained:
	case <-limit.C:
	case <-ctx.Done():
	}
}

// resend is the scheduler: every 100 ms it repeats what is overdue, except while paused.
func (c *channel) resend(ctx context.Context) {
	tick := time.NewTicker(resendTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			c.resendDue(now)
		}
	}
}

func (c *channel) resendDue(now time.Time) {
	c.mu.Lock()
	s := c.socket
	var frames [][]byte
	if !c.paused {
		frames = c.out.due(now)
	}
	c.mu.Unlock()
	for _, frame := range frames {
		if err := s.write(websocket.BinaryMessage, frame); err != nil {
			c.log.Debug("resend", "err", err)
			return
		}
	}
}
