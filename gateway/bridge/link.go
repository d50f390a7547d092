package bridge

import "golang.org/x/crypto/ssh"

// Leg is one SSH connection whose incoming streams we own (from ssh.NewServerConn or ssh.NewClientConn).
type Leg struct {
	Conn  ssh.Conn
	Chans <-chan ssh.NewChannel
	Reqs  <-chan *ssh.Request
}

// Discard ends a connection that nobody uses, and serves its streams until they end.
func (l Leg) Discard() {
	_ = l.Conn.Close()
	done := make(chan struct{})
	go func() { defer close(done); ssh.DiscardRequests(l.Reqs) }()
	for channel := range l.Chans {
		_ = channel.Reject(ssh.ConnectionFailed, "closing")
	}
	<-done
}

// Link is a connection to a machine, logged in. It has one holder at a time, who serves its streams, because the library's read loop stops when nobody does.
// It has one goroutine, which ends with the connection: the holder sees to that end.
type Link struct {
	Leg
	Gone <-chan struct{} // closed when the connection has ended
	Err  error           // why it has; valid once Gone is closed
	Keep func()          // takes over the link when it is still good and its bridge's client has gone; nil: it ends with its bridge
}

// NewLink begins to wait for the end of a connection. ended is called once it has, and words it.
func NewLink(l Leg, ended func(error) error) *Link {
	gone := make(chan struct{})
	made := &Link{Leg: l, Gone: gone}
	go func() {
		made.Err = ended(l.Conn.Wait())
		close(gone)
	}()
	return made
}
