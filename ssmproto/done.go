package ssmproto

// Done is closed when the session is over, or closed by its owner. A connection that is being resumed is not the end. Close has to be called in either case: a session
// that has failed here is open at the service until it is terminated.
func (c *Conn) Done() <-chan struct{} { return c.ctx.Done() }

// Err gives why the session is over, as Read does after the last data: io.EOF after a normal end. It is nil before Done.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.state != Closed {
		return nil
	}
	return c.readError()
}
