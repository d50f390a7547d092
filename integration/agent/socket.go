package agent

import (
	"context"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Liveness of the agent's WebSockets (SPEC.md §2.3): a pong, and nothing else, extends the read deadline.
const (
	pingInterval  = 54 * time.Second
	firstDeadline = 114 * time.Second
	pongWait      = 60 * time.Second
	writeWait     = 20 * time.Second
)

// socket is a WebSocket that may be written to from several goroutines and keeps itself alive.
type socket struct {
	ws   *websocket.Conn
	mu   sync.Mutex // one data writer at a time
	once sync.Once
	done chan struct{}
	ping sync.WaitGroup
}

func newSocket(ws *websocket.Conn) *socket {
	s := &socket{ws: ws, done: make(chan struct{})}
	ws.SetReadLimit(maxFrame)
	_ = ws.SetReadDeadline(time.Now().Add(firstDeadline))
	ws.SetPongHandler(func(string) error { return ws.SetReadDeadline(time.Now().Add(pongWait)) })
	s.ping.Go(s.keepAlive)
	return s
}

func (s *socket) keepAlive() {
	ticker := time.NewTicker(pingInterval)
	defer ticker.Stop()
	for {
		select {
		case <-s.done:
			return
		case <-ticker.C:
			_ = s.ws.WriteControl(websocket.PingMessage, []byte("keepalive"), time.Now().Add(writeWait)) // the deadline notices
		}
	}
}

func (s *socket) write(kind int, frame []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.ws.SetWriteDeadline(time.Now().Add(writeWait)); err != nil {
		return err
	}
	return s.ws.WriteMessage(kind, frame)
}

// send writes one message that is not sequenced.
func (s *socket) send(m *ssmproto.Message) error {
	return s.write(websocket.BinaryMessage, m.Append(make([]byte, 0, ssmproto.Overhead+len(m.Payload))))
}

// read returns the next frame. Text and binary frames are treated alike, as the real agent does.
func (s *socket) read() ([]byte, error) {
	_, frame, err := s.ws.ReadMessage()
	return frame, err
}

// close drops the connection without a close frame, as the real agent does (SPEC.md §7.2).
func (s *socket) close() {
	s.once.Do(func() {
		close(s.done)
		_ = s.ws.Close()
	})
	s.ping.Wait()
}

// closeWith closes the socket when ctx ends.
func (s *socket) closeWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, s.close)
}
