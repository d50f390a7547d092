package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// plainPort carries bytes to a port of the machine that is not SSH.
func (v *visit) plainPort(channel ssh.NewChannel) error {
	port, sessionID, err := v.openPort(false)
	return v.carry(channel, port, sessionID, nil, err)
}

func (v *visit) openPort(peerFirst bool) (net.Conn, string, error) {
	return v.conn.srv.openPort(v.ctx, v, v.current(), peerFirst)
}

// carry answers the channel: with the refusal where err says that there is no port, else by copying both ways until both have ended. pushed is the key that the
// machine was told of for it; nil where that was none.
func (v *visit) carry(channel ssh.NewChannel, port net.Conn, sessionID string, pushed ssh.PublicKey, err error) error {
	r := v.current()
	e := v.event(EventUpstreamOpened)
	e.SessionID = sessionID
	if pushed != nil {
		e.PushedKey = ssh.FingerprintSHA256(pushed)
	}
	if err != nil {
		e.Event = EventUpstreamFailed
		withCause(&e, err)
		v.conn.srv.record(e)
		refuse(channel, rejection(err), v.text(err))
		return err
	}
	v.conn.srv.record(e)
	stream, reqs, err := channel.Accept()
	if err != nil {
		_ = port.Close()
		return fmt.Errorf("accept the port: %w", err)
	}
	reqs, left := v.conn.closeNotice(reqs)
	client := newChanConn(stream, reqs, v.conn.raw.LocalAddr(), v.conn.raw.RemoteAddr())
	began := time.Now()
	in, out, err := relay(v.ctx, metered{client, &v.tally}, port, left, v.conn.srv.cfg.Limits.PortLinger)
	e = v.event(EventChannelClosed)
	inspected := false
	e.SessionID, e.ChannelType, e.Direction, e.Destination = sessionID, "direct-tcpip", "client", destination(r.named, r.port)
	e.BytesIn, e.BytesOut, e.Duration, e.Inspected, e.NotSeen = in, out, time.Since(began).Milliseconds(), &inspected, notInspected
	withCause(&e, err)
	v.conn.srv.record(e)
	return err
}

// relayBuffer is the size of one copy: what one SSH packet holds.
const relayBuffer = 32 << 10

var relayBuffers = sync.Pool{New: func() any { b := make([]byte, relayBuffer); return &b }}

// relay copies between client and port until both directions have ended, and closes both. Half-closes travel where port can carry one. Where it cannot,
// the end of the client's side leaves the answer linger time, counted anew from each byte, because many protocols end their question with their input.
// left is closed when the client has gone altogether, which a Read cannot tell from the end of its side: then nobody waits for an answer.
func relay(ctx context.Context, client, port net.Conn, left <-chan struct{}, linger time.Duration) (in, out int64, err error) {
	stop := context.AfterFunc(ctx, func() { _ = client.Close(); _ = port.Close() })
	defer stop()
	answer := &stirred{Conn: port, over: make(chan struct{})}
	var up, down error
	var both sync.WaitGroup
	both.Go(func() {
		in, up = copyPooled(port, client)
		if up == nil {
			up = endInput(port, answer, linger)
		}
		if up == nil {
			select {
			case <-left:
			case <-answer.over:
			}
		}
		_ = port.Close()
	})
	both.Go(func() {
		out, down = copyPooled(client, answer)
		answer.done()
		if half, ok := client.(interface{ CloseWrite() error }); ok && down == nil {
			_ = half.CloseWrite()
		}
		_ = client.Close() // what the client would still say has nobody to hear it
	})
	both.Wait()
	if ctx.Err() != nil {
		return in, out, context.Cause(ctx)
	}
	return in, out, relayError(up, down)
}

// endInput tells the machine that the client has no more to say, as well as port can.
func endInput(port net.Conn, answer *stirred, linger time.Duration) error {
	if half, ok := port.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	answer.endAfter(linger)
	return nil
}

// closeNotice passes requests on and closes the second channel when they have ended, which is when the peer has closed.
func (c *conn) closeNotice(reqs <-chan *ssh.Request) (passed <-chan *ssh.Request, left <-chan struct{}) {
	out, gone := make(chan *ssh.Request), make(chan struct{})
	c.tasks.Go(func() { // ends with the channel; whoever serves passed never stops before
		defer close(gone)
		defer close(out)
		for req := range reqs {
			out <- req
		}
	})
	return out, gone
}

// relayError tells an end in good order from a fault: each side closing under the other's copy is how a connection ends.
func relayError(errs ...error) error {
	for _, err := range errs {
		if err != nil && !errors.Is(err, net.ErrClosed) && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrClosedPipe) {
			return err
		}
	}
	return nil
}

func copyPooled(dst io.Writer, src io.Reader) (int64, error) {
	buffer, _ := relayBuffers.Get().(*[]byte)
	defer relayBuffers.Put(buffer)
	// The wrappers keep io.CopyBuffer from a ReadFrom or WriteTo that would bring its own buffer.
	return io.CopyBuffer(struct{ io.Writer }{dst}, struct{ io.Reader }{src}, *buffer)
}

// stirred is a connection that can be told to end after a time without a byte.
type stirred struct {
	net.Conn
	last atomic.Int64  // unix nanoseconds of the last byte
	over chan struct{} // closed when reading has ended, or it was still for too long

	mu    sync.Mutex
	timer *time.Timer
	ended bool
}

// Read notes the time.
func (s *stirred) Read(b []byte) (int, error) {
	n, err := s.Conn.Read(b)
	s.last.Store(time.Now().UnixNano())
	return n, err
}

// endAfter ends it when it has been still for pause.
func (s *stirred) endAfter(pause time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.last.Store(time.Now().UnixNano())
	s.timer = time.AfterFunc(pause, func() { s.check(pause) })
}

func (s *stirred) check(pause time.Duration) {
	still := time.Since(time.Unix(0, s.last.Load()))
	if still >= pause {
		s.done()
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.ended {
		s.timer.Reset(pause - still)
	}
}

// done ends the watch.
func (s *stirred) done() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended {
		return
	}
	s.ended = true
	close(s.over)
	if s.timer != nil {
		s.timer.Stop()
	}
}
