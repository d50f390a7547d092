package gateway

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// chanConnLinger is how long Close waits for the last written bytes to leave.
const chanConnLinger = time.Second

// The pieces in which a chanConn carries: what a login and typing need, and what bulk is worth, which is what the SSH library sends in one packet at most.
const (
	chanConnBuffer = 8 << 10
	chanConnBulk   = 32 << 10
)

// chanConn makes an SSH channel a net.Conn on which an SSH server can stand. Reads and writes of a channel wait on the peer and cannot be interrupted, not
// even by closing the channel, which the peer has to agree to; a stranger could hold a login for ever. So two goroutines do the waiting, and Read and Write
// wait for them, for the deadline, or for Close, whichever comes first.
type chanConn struct {
	ch            ssh.Channel
	local, remote net.Addr

	readMu  sync.Mutex
	current []byte      // what Read has not given out yet, guarded by readMu
	full    chan []byte // pieces that were received; closed at the end of input
	taken   chan struct{}

	writeMu sync.Mutex
	ended   bool        // CloseWrite was called, guarded by writeMu
	out     chan []byte // pieces to send; closed by CloseWrite and Close
	free    chan []byte // the buffer of the piece that was sent
	failed  chan struct{}
	failure error // why sending stopped, valid once failed is closed

	readLimit, writeLimit deadline
	closeOnce             sync.Once
	closed                chan struct{} // Close was called
	sent                  chan struct{} // the sender has come to its end
}

// newChanConn wraps ch and answers its requests. remote is where the person really comes from; it must be a *net.TCPAddr, for a certificate with
// source-address is refused from any other. The two goroutines behind it end when the peer closes the channel or its connection ends.
func newChanConn(ch ssh.Channel, reqs <-chan *ssh.Request, local, remote net.Addr) net.Conn {
	c := &chanConn{
		ch: ch, local: local, remote: remote,
		full: make(chan []byte), taken: make(chan struct{}, 1),
		out: make(chan []byte, 1), free: make(chan []byte, 1),
		failed: make(chan struct{}), closed: make(chan struct{}), sent: make(chan struct{}),
	}
	c.free <- make([]byte, 0, chanConnBuffer)
	go ssh.DiscardRequests(reqs) // ends with the channel; a keepalive in it gets the failure it expects
	go c.receive()
	go c.send()
	return c
}

// receive brings pieces from the channel to Read until input ends. It reads the next piece when the last is used up, so the channel's own window is what
// holds a fast sender back.
func (c *chanConn) receive() {
	defer close(c.full)
	small := make([]byte, chanConnBuffer)
	buf := small
	for {
		n, err := c.ch.Read(buf)
		if n > 0 && !c.handOver(buf[:n]) {
			_, _ = io.Copy(io.Discard, c.ch) // keep the window open until the peer has closed, too
			return
		}
		if err != nil {
			return
		}
		if n == len(buf) && len(buf) < chanConnBulk {
			buf = make([]byte, chanConnBulk)
		}
	}
}

// handOver gives a piece to Read and waits until it is used up. It reports false after Close; Read may then still hold the piece.
func (c *chanConn) handOver(piece []byte) bool {
	select {
	case c.full <- piece:
	case <-c.closed:
		return false
	}
	select {
	case <-c.taken:
		return true
	case <-c.closed:
		return false
	}
}

// send brings pieces from Write to the channel until CloseWrite or Close.
func (c *chanConn) send() {
	defer close(c.sent)
	for piece := range c.out {
		if _, err := c.ch.Write(piece); err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrClosedPipe // the library says EOF for a channel the peer has closed
			}
			c.failure = err
			close(c.failed)
			return
		}
		c.free <- piece
	}
	_ = c.ch.CloseWrite()
}

// Read implements net.Conn. After Close it fails with net.ErrClosed, after the deadline with os.ErrDeadlineExceeded; a later deadline revives it.
func (c *chanConn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	if closedAlready(c.closed) {
		return 0, net.ErrClosed
	}
	expired := c.readLimit.wait()
	if closedAlready(expired) {
		return 0, os.ErrDeadlineExceeded
	}
	if len(p) == 0 {
		return 0, nil
	}
	if len(c.current) == 0 {
		select {
		case piece, ok := <-c.full:
			if !ok {
				return 0, io.EOF
			}
			c.current = piece
		case <-expired:
			return 0, os.ErrDeadlineExceeded
		case <-c.closed:
			return 0, net.ErrClosed
		}
	}
	n := copy(p, c.current)
	c.current = c.current[n:]
	if len(c.current) == 0 {
		c.taken <- struct{}{}
	}
	return n, nil
}

// Write implements net.Conn. Bytes are under way when it returns, one piece of up to 32 KiB at most, as with a socket.
func (c *chanConn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	if c.ended {
		return 0, net.ErrClosed
	}
	expired := c.writeLimit.wait()
	written := 0
	for written < len(p) {
		piece, err := c.room(expired)
		if err != nil {
			return written, err
		}
		part := p[written:min(len(p), written+chanConnBulk)]
		c.out <- append(piece[:0], part...)
		written += len(part)
	}
	return written, nil
}

// room waits for the buffer to write into.
func (c *chanConn) room(expired <-chan struct{}) ([]byte, error) {
	switch {
	case closedAlready(c.closed):
		return nil, net.ErrClosed
	case closedAlready(expired):
		return nil, os.ErrDeadlineExceeded
	}
	select {
	case piece := <-c.free:
		return piece, nil
	case <-c.failed:
		return nil, c.failure
	case <-c.closed:
		return nil, net.ErrClosed
	case <-expired:
		return nil, os.ErrDeadlineExceeded
	}
}

// CloseWrite ends our data after what was written; the peer may go on sending.
func (c *chanConn) CloseWrite() error {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	c.endOutput()
	return nil
}

// endOutput tells the sender that no more comes. The caller holds writeMu.
func (c *chanConn) endOutput() {
	if !c.ended {
		c.ended = true
		close(c.out)
	}
}

// Close ends pending calls, lets the last bytes leave for a bounded time, and closes the channel.
func (c *chanConn) Close() error {
	err := net.ErrClosed
	c.closeOnce.Do(func() {
		err = nil
		close(c.closed)
		c.writeMu.Lock()
		c.endOutput()
		c.writeMu.Unlock()
		linger := time.NewTimer(chanConnLinger)
		defer linger.Stop()
		select {
		case <-c.sent:
		case <-linger.C:
		}
		_ = c.ch.Close() // fails only when the peer has closed already
		c.readLimit.set(time.Time{})
		c.writeLimit.set(time.Time{})
	})
	return err
}

// LocalAddr implements net.Conn.
func (c *chanConn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn: the address of the person, not of the channel.
func (c *chanConn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *chanConn) SetDeadline(t time.Time) error {
	c.readLimit.set(t)
	c.writeLimit.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *chanConn) SetReadDeadline(t time.Time) error {
	c.readLimit.set(t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (c *chanConn) SetWriteDeadline(t time.Time) error {
	c.writeLimit.set(t)
	return nil
}

// deadline is a point in time to wait for, which may be moved while somebody waits.
type deadline struct {
	mu      sync.Mutex
	timer   *time.Timer
	expired chan struct{} // closed when the time has come; replaced when the deadline moves on after that
}

// wait gives what is closed when the time has come.
func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.channel()
}

func (d *deadline) channel() chan struct{} {
	if d.expired == nil {
		d.expired = make(chan struct{})
	}
	return d.expired
}

// set moves the deadline. The zero time means never, a past time now.
func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	fired := d.timer != nil && !d.timer.Stop()
	d.timer = nil
	if closedAlready(d.channel()) {
		d.expired = make(chan struct{})
	} else if fired {
		// The old timer is about to close the channel that waiters hold: leave it to them and go on with a new one.
		d.expired = make(chan struct{})
	}
	if t.IsZero() {
		return
	}
	expired := d.expired
	if left := time.Until(t); left > 0 {
		d.timer = time.AfterFunc(left, func() { close(expired) })
		return
	}
	close(expired)
}
