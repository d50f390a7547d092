package awsemu

import (
	"errors"
	"io"
	"slices"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"
)

// Limits of one WebSocket.
const (
	maxFrame      = 4 << 20 // far above what any agent or client sends
	writeTimeout  = 10 * time.Second
	helloTimeout  = 10 * time.Second // for the text frame with the token
	lingerTimeout = 3 * time.Second  // for the peer to close after the end of a session
	frameGuess    = 1280             // a full message of the reference programs fits
)

// channel is one WebSocket of a session, from the token on. One goroutine reads it, the lane towards it writes it.
type channel struct {
	ws       *websocket.Conn
	side     Side
	gone     chan struct{} // closed when the reader has ended
	bye      *time.Timer   // nil without ByeEvery
	meter    meter
	messages atomic.Int64 // both directions
	bytes    atomic.Int64
}

func newChannel(ws *websocket.Conn, side Side) *channel {
	return &channel{ws: ws, side: side, gone: make(chan struct{})}
}

// read gives the next frame in a buffer of its own. Text frames are read like binary ones, as the reference programs do.
func (c *channel) read() ([]byte, error) {
	_, r, err := c.ws.NextReader()
	if err != nil {
		return nil, err
	}
	frame := make([]byte, 0, frameGuess)
	for {
		n, err := r.Read(frame[len(frame):cap(frame)])
		frame = frame[:len(frame)+n]
		switch {
		case errors.Is(err, io.EOF):
			return frame, nil
		case err != nil:
			return nil, err
		case len(frame) == cap(frame):
			frame = slices.Grow(frame, len(frame))
		}
	}
}

func (c *channel) write(frame []byte) error {
	if err := c.ws.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return c.ws.WriteMessage(websocket.BinaryMessage, frame)
}

// close says goodbye with a close frame and gives the peer a moment to do the same. Its reader ends by then at the latest.
func (c *channel) close(code int, reason string) {
	// An error means that the connection is already gone, which is what is wanted.
	_ = c.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(code, reason), time.Now().Add(lingerTimeout))
	_ = c.ws.SetReadDeadline(time.Now().Add(lingerTimeout))
}

// dismiss ends the channel after channel_closed. The agent closes by itself; an early close frame would keep it from saying its last words.
func (c *channel) dismiss() {
	if c.side == SideClient {
		c.close(websocket.CloseNormalClosure, "")
		return
	}
	_ = c.ws.SetReadDeadline(time.Now().Add(lingerTimeout))
}

// abort breaks the connection as a dead network would, without close frame.
func (c *channel) abort() { _ = c.ws.NetConn().Close() }

// carried counts one frame and reports whether the channel has carried more than the faults let it.
func (c *channel) carried(n int, f *Faults) bool {
	messages, size := c.messages.Add(1), c.bytes.Add(int64(n))
	side := f.CutSide
	if side == "" {
		side = SideClient
	}
	return c.side == side && (f.CutAfterMessages > 0 && messages >= f.CutAfterMessages || f.CutAfterBytes > 0 && size >= f.CutAfterBytes)
}

// meter tells for how many seconds in a row a WebSocket has sent too much.
type meter struct {
	since time.Time
	count int
	over  int
}

// add counts a message at now and gives the number of full seconds above limit.
func (m *meter) add(now time.Time, limit int) int {
	if m.since.IsZero() {
		m.since = now
	}
	m.count++
	if elapsed := now.Sub(m.since); elapsed >= time.Second {
		if float64(m.count) > float64(limit)*elapsed.Seconds() {
			m.over++
		} else {
			m.over = 0
		}
		m.since, m.count = now, 0
	}
	return m.over
}
