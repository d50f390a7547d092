package ssmproto

import (
	"net"
	"sync"
	"time"
)

// coalesceLimit is how much a coalescer collects before it writes.
const coalesceLimit = 32 << 10

var coalesceBuffers = sync.Pool{New: func() any {
	b := make([]byte, 0, coalesceLimit)
	return &b
}}

// coalescer is a network connection that can collect small writes and send them in one. The WebSocket library writes every message by itself,
// which at 1 KiB per message is mostly system calls.
type coalescer struct {
	net.Conn

	deadline coarseDeadline // guarded by the WebSocket library, which sets it and writes under a lock of its own

	mu   sync.Mutex
	held *[]byte // what is collected; nil when writes go straight through
}

// SetWriteDeadline moves the limit of writes, unless it hardly moves.
func (c *coalescer) SetWriteDeadline(t time.Time) error {
	if !c.deadline.moves(t) {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// Write sends p, or keeps it until flush. An error of a kept write shows in flush.
func (c *coalescer) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return c.Conn.Write(p)
	}
	large := len(p) > coalesceLimit/2 // two of its kind would not fit, so that to collect it would only be to copy it
	if large || len(*c.held)+len(p) > coalesceLimit {
		if err := c.send(); err != nil {
			return 0, err
		}
	}
	if large {
		return c.Conn.Write(p)
	}
	*c.held = append(*c.held, p...)
	return len(p), nil
}

// hold begins to collect.
func (c *coalescer) hold() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		c.held = coalesceBuffers.Get().(*[]byte)
	}
}

// flush sends what is collected and ends the collecting.
func (c *coalescer) flush() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == nil {
		return nil
	}
	err := c.send()
	coalesceBuffers.Put(c.held)
	c.held = nil
	return err
}

func (c *coalescer) send() error {
	if len(*c.held) == 0 {
		return nil
	}
	_, err := c.Conn.Write(*c.held)
	*c.held = (*c.held)[:0]
	return err
}
