package ssmproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/xtaci/smux"
)

// Ours to choose.
const (
	// lingerLimit is how long a stream stays open after CloseWrite while nothing arrives.
	lingerLimit = time.Minute
	// muxFrame is how much of a stream goes out before another has its turn: four messages.
	muxFrame = 4 << 10
	// maxStreams is what the agent lets wait for its connection (SPEC.md §7.2).
	maxStreams = 1024
)

// ErrTooManyStreams says that as many streams are open as the agent can hold.
var ErrTooManyStreams = errors.New("ssmproto: too many streams in one session")

// Mux opens many connections to the port of a session, as smux streams (SPEC.md §7.2). Streams share the window and the rate of the session, and one
// whose data nobody reads stops the others when 4 MiB have come together: bulk belongs into a session of its own.
type Mux struct {
	conn    *Conn
	opening chan struct{} // holds a token while a stream is opened; see muxConn
	session *smux.Session

	mu     sync.Mutex
	open   int
	closed bool // by its owner
}

// NewMux takes over conn, which must be Multiplexed; nobody else may read or write it.
func NewMux(conn *Conn) (*Mux, error) {
	if !conn.Multiplexed() {
		return nil, ErrNotMultiplexed
	}
	conn.claim()
	config := smux.DefaultConfig()
	config.Version = 1
	config.MaxFrameSize = muxFrame
	// Both sides must agree, or one of them gives up after 30 s of silence (SPEC.md §5.4).
	config.KeepAliveDisabled = versionAfter(conn.AgentVersion(), agentAfterKeepaliveOff)
	m := &Mux{conn: conn, opening: make(chan struct{}, 1)}
	session, err := smux.Client(muxConn{conn, m.opening}, config)
	if err != nil {
		return nil, fmt.Errorf("ssmproto: multiplex the session: %w", err)
	}
	m.session = session
	return m, nil
}

// muxConn hands nothing to smux while a stream is being opened: smux enters it in its books after it has sent the SYN, and throws away what comes for it
// before that. An agent that is near, and a processor that is busy, would be enough.
type muxConn struct {
	*Conn
	opening chan struct{}
}

// Read gives received bytes.
func (c muxConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	c.opening <- struct{}{}
	<-c.opening
	return n, err
}

// claim lets smux, and nobody else, use the bytes of a multiplexed session.
func (c *Conn) claim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.claimed = true
}

// Conn gives the session below.
func (m *Mux) Conn() *Conn { return m.conn }

// Open opens a connection to the port. It does not wait for the agent, which has no way to say that it has connected: when the port refuses, the
// first Read of the connection gives ErrConnectToPort. It waits while the session cannot send; when the window stays full for 30 s after
// that, it fails with an os.ErrDeadlineExceeded.
func (m *Mux) Open(ctx context.Context) (net.Conn, error) {
	if err := m.conn.awaitWindow(ctx); err != nil {
		return nil, fmt.Errorf("ssmproto: open a stream: %w", err)
	}
	m.mu.Lock()
	if m.open >= maxStreams {
		m.mu.Unlock()
		return nil, ErrTooManyStreams
	}
	m.open++
	m.mu.Unlock()
	inner, err := m.openStream(ctx)
	if err != nil {
		m.left()
		return nil, fmt.Errorf("ssmproto: open a stream: %w", m.reason(err))
	}
	return &stream{inner: inner, mux: m}, nil
}

// openStream opens a stream of smux while nothing is handed to smux.
func (m *Mux) openStream(ctx context.Context) (*smux.Stream, error) {
	select {
	case m.opening <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	defer func() { <-m.opening }()
	return m.session.OpenStream()
}

// Close ends all streams and the session, politely. It returns what Conn.Close returns.
func (m *Mux) Close() error {
	m.end()
	return m.conn.Close()
}

// CloseNow ends all streams and the session at once.
func (m *Mux) CloseNow() error {
	err := m.conn.CloseNow()
	m.end()
	return err
}

// end closes the smux session, and with it the Conn. It does not wait for the goroutines of smux: the one that reads has ended when the Conn has.
func (m *Mux) end() {
	m.mu.Lock()
	m.closed = true
	m.mu.Unlock()
	_ = m.session.Close() // says what closing the Conn has said
}

func (m *Mux) isClosed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.closed
}

func (m *Mux) left() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open--
}

// reason prefers the cause of the session's end to what smux makes of it.
func (m *Mux) reason(err error) error {
	m.conn.mu.Lock()
	defer m.conn.mu.Unlock()
	if m.conn.state == Closed && m.conn.err != nil {
		return m.conn.err
	}
	switch {
	case errors.Is(err, io.ErrClosedPipe):
		return net.ErrClosed
	case errors.Is(err, smux.ErrTimeout):
		return os.ErrDeadlineExceeded
	default:
		return err
	}
}

// stream is one connection of a Mux.
type stream struct {
	inner *smux.Stream
	mux   *Mux
	once  sync.Once

	mu     sync.Mutex
	heard  bool // data has arrived
	linger *time.Timer
	half   bool
	closed bool // by its owner
}

// Read gives received data. The end of a stream that never had any, after the agent's flag, is a refused connection: the flag names no
// stream, but comes before the end of the one it is about (SPEC.md §7.2).
func (s *stream) Read(p []byte) (int, error) {
	n, err := s.inner.Read(p)
	if n > 0 {
		s.noteData()
	}
	switch {
	case err == nil:
		return n, nil
	case errors.Is(err, io.EOF):
		return n, s.endOfStream()
	default:
		return n, s.mux.reason(err)
	}
}

func (s *stream) noteData() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.heard = true
	if s.linger != nil {
		s.linger.Reset(lingerLimit)
	}
}

// endOfStream says what an end of file of smux means. It gives one for a stream that we have closed, too, even if data was still to come.
func (s *stream) endOfStream() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.mux.isClosed() {
		return net.ErrClosed
	}
	c := s.mux.conn
	c.mu.Lock()
	defer c.mu.Unlock()
	if !s.heard && c.flagged > 0 {
		c.flagged--
		return ErrConnectToPort
	}
	if c.state == Closed {
		return c.readError()
	}
	return io.EOF
}

// Write sends data.
func (s *stream) Write(p []byte) (int, error) {
	s.mu.Lock()
	half := s.half
	s.mu.Unlock()
	if half {
		return 0, net.ErrClosed
	}
	n, err := s.inner.Write(p)
	if err != nil {
		return n, s.mux.reason(err)
	}
	return n, nil
}

// CloseWrite says that nothing more will be written. The protocol cannot tell the other side: its end of stream means fully closed, and would cost
// the answer (SPEC.md §7.2). So the stream stays open until the other side closes it, or until nothing has arrived for a minute.
func (s *stream) CloseWrite() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.half {
		s.half = true
		s.linger = time.AfterFunc(lingerLimit, func() { _ = s.Close() })
	}
	return nil
}

// Close ends the stream in both directions.
func (s *stream) Close() error {
	var err error
	s.once.Do(func() {
		s.mu.Lock()
		s.closed = true
		if s.linger != nil {
			s.linger.Stop()
		}
		s.mu.Unlock()
		s.mux.left()
		if err = s.inner.Close(); errors.Is(err, io.ErrClosedPipe) {
			err = nil
		}
	})
	return err
}

func (s *stream) LocalAddr() net.Addr                { return s.mux.conn.LocalAddr() }
func (s *stream) RemoteAddr() net.Addr               { return s.mux.conn.RemoteAddr() }
func (s *stream) SetDeadline(t time.Time) error      { return s.inner.SetDeadline(t) }
func (s *stream) SetReadDeadline(t time.Time) error  { return s.inner.SetReadDeadline(t) }
func (s *stream) SetWriteDeadline(t time.Time) error { return s.inner.SetWriteDeadline(t) }
