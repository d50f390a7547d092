package ssmproto

import "time"

// deadline is one of the two time limits of a Conn.
type deadline struct {
	passed bool
	set    int // counts the settings, so that a timer that was replaced too late does nothing
	timer  *time.Timer
}

// SetDeadline sets the limits of Read and Write. The zero time is no limit.
func (c *Conn) SetDeadline(t time.Time) error {
	c.setDeadline(&c.readLimit, t)
	c.setDeadline(&c.writeLimit, t)
	return nil
}

// SetReadDeadline sets the limit of Read, also of one that waits. The zero time is no limit.
func (c *Conn) SetReadDeadline(t time.Time) error {
	c.setDeadline(&c.readLimit, t)
	return nil
}

// SetWriteDeadline sets the limit of Write, also of one that waits. The zero time is no limit. What was queued before is still sent.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	c.setDeadline(&c.writeLimit, t)
	return nil
}

func (c *Conn) setDeadline(d *deadline, t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.set++
	d.passed = false
	if !t.IsZero() {
		c.startDeadline(d, time.Until(t))
	}
	c.readable.Broadcast()
	c.progress.Broadcast()
}

func (c *Conn) startDeadline(d *deadline, left time.Duration) {
	if left <= 0 {
		d.passed = true
		return
	}
	set := d.set
	d.timer = time.AfterFunc(left, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if d.set == set {
			d.passed = true
			c.readable.Broadcast()
			c.progress.Broadcast()
		}
	})
}
