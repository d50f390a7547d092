package ssmproto

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"

	"github.com/gorilla/websocket"
)

const (
	// maxIncoming bounds a received frame. The agent sends 1 KiB of payload; anything near this is not Session Manager.
	maxIncoming = 1 << 20
	// pingPayload is what AWS's own client and agent put into their pings (SPEC.md §2.3).
	pingPayload = "keepalive"
)

// socket is one WebSocket connection to the service. One goroutine may read and one write at a time; close may be called by any.
type socket struct {
	ws      *websocket.Conn
	out     *coalescer
	in      *gatherer
	kernel  bool // the connection is one of the kernel's, whose clock runs: those in memory may have another
	silence time.Duration
	size    int         // of the last frame that was read: the next is likely to be like it
	scratch []byte      // for the encoding of acknowledgements
	disarm  func() bool // unties the connection from the context of its opening; false if that has ended
}

// openSocket connects and sends the opening frame. There is no reply to it: a bad token shows as a closed connection (SPEC.md §2.2).
func openSocket(ctx context.Context, grant *Grant, token Token, clientID UUID, o *Options) (_ *socket, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("ssmproto: open the data channel: %w", err)
		}
	}()
	ctx, cancel := context.WithTimeout(ctx, o.HandshakeTimeout)
	defer cancel()
	header, err := upgradeHeader(ctx, grant)
	if err != nil {
		return nil, err
	}
	s := &socket{silence: o.SilenceLimit, size: smallFrame, disarm: func() bool { return true }}
	dialer := *o.Dialer
	dialer.WriteBufferSize = max(o.MaxPayload, o.DiscoverPayload) + 2*Overhead
	dialer.ReadBufferSize = usualRead
	dialer.HandshakeTimeout = o.HandshakeTimeout
	s.capture(ctx, &dialer)
	ws, response, err := dialer.DialContext(ctx, grant.StreamURL, header) //nolint:bodyclose // the library has read what there is
	if err != nil {
		if response != nil {
			return nil, fmt.Errorf("%w: %s", err, response.Status)
		}
		return nil, withoutURL(err)
	}
	s.ws = ws
	if !s.disarm() {
		s.close()
		return nil, context.Cause(ctx)
	}
	s.watch()
	opening, err := appendOpenDataChannel(nil, token, clientID, o.ClientVersion)
	if err != nil {
		s.close()
		return nil, err
	}
	if err := s.send(websocket.TextMessage, opening); err != nil {
		s.close()
		return nil, err
	}
	return s, nil
}

// withoutURL takes the address out of an error: the query of a stream URL may carry a signature.
func withoutURL(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// upgradeHeader lets the grant sign the upgrade request.
func upgradeHeader(ctx context.Context, grant *Grant) (http.Header, error) {
	if grant.Sign == nil {
		return nil, nil
	}
	u, err := url.Parse(grant.StreamURL)
	if err != nil {
		return nil, fmt.Errorf("stream URL: %w", withoutURL(err))
	}
	switch u.Scheme {
	case "wss":
		u.Scheme = "https"
	case "ws":
		u.Scheme = "http"
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, fmt.Errorf("stream URL: %w", withoutURL(err))
	}
	if err := grant.Sign(ctx, request); err != nil {
		return nil, fmt.Errorf("sign the upgrade: %w", err)
	}
	return request.Header, nil
}

// capture puts a coalescer and a gatherer under the connection that dialer makes, and ties it to the context of the opening until disarm is called: the library
// looks at the deadline of a context only.
func (s *socket) capture(opening context.Context, dialer *websocket.Dialer) {
	wrap := func(dial func(ctx context.Context, network, address string) (net.Conn, error)) func(context.Context, string, string) (net.Conn, error) {
		return func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			step := coarseDeadline{step: s.silence / 64}
			s.out = &coalescer{Conn: conn, deadline: step}
			s.in = &gatherer{Conn: s.out, mark: markOf(conn), deadline: step}
			_, s.kernel = conn.(*net.TCPConn)
			s.disarm = context.AfterFunc(opening, func() { _ = conn.Close() })
			return s.in, nil
		}
	}
	switch {
	case dialer.NetDialContext != nil:
		dialer.NetDialContext = wrap(dialer.NetDialContext)
	case dialer.NetDial != nil:
		plain := dialer.NetDial
		dialer.NetDialContext = wrap(func(_ context.Context, network, address string) (net.Conn, error) { return plain(network, address) })
	default:
		dialer.NetDialContext = wrap((&net.Dialer{}).DialContext)
	}
	if dialer.NetDialTLSContext != nil {
		dialer.NetDialTLSContext = wrap(dialer.NetDialTLSContext)
	}
}

// watch sets what extends the silence limit: every frame, pings and pongs included.
func (s *socket) watch() {
	s.ws.SetReadLimit(maxIncoming)
	s.ws.SetPongHandler(func(string) error { return s.ws.SetReadDeadline(time.Now().Add(s.silence)) })
	s.ws.SetPingHandler(func(payload string) error {
		now := time.Now()
		if err := s.ws.WriteControl(websocket.PongMessage, []byte(payload), now.Add(s.silence)); err != nil {
			return err
		}
		return s.ws.SetReadDeadline(now.Add(s.silence))
	})
}

// read waits for one frame.
func (s *socket) read() (*frame, error) {
	if err := s.ws.SetReadDeadline(time.Now().Add(s.silence)); err != nil {
		return nil, err
	}
	_, reader, err := s.ws.NextReader()
	if err != nil {
		return nil, err
	}
	f := newFrame(s.size)
	for {
		if len(f.buf) == cap(f.buf) {
			f = f.moved(2 * cap(f.buf))
		}
		n, err := reader.Read(f.buf[len(f.buf):cap(f.buf)])
		f.buf = f.buf[:len(f.buf)+n]
		if err == io.EOF {
			s.size = len(f.buf)
			s.in.frames++
			return f.fitted(), nil
		}
		if err != nil {
			f.release()
			return nil, err
		}
	}
}

// write sends a batch, in as few system calls as possible.
func (s *socket) write(batch []outgoing) error {
	if len(batch) > 1 {
		s.out.hold()
	}
	for i := range batch {
		message := s.scratch[:0]
		if f := batch[i].frame; f != nil {
			f.seal()
			message = f.buf
		} else {
			message = appendAcknowledge(message, batch[i].ack, time.Now())
			s.scratch = message
		}
		if err := s.send(websocket.BinaryMessage, message); err != nil {
			return errors.Join(err, s.out.flush())
		}
	}
	return s.out.flush()
}

func (s *socket) send(kind int, message []byte) error {
	if err := s.ws.SetWriteDeadline(time.Now().Add(s.silence)); err != nil {
		return err
	}
	return s.ws.WriteMessage(kind, message)
}

// ping asks for a sign of life.
func (s *socket) ping() error {
	return s.ws.WriteControl(websocket.PingMessage, []byte(pingPayload), time.Now().Add(s.silence))
}

// close cuts the connection. The service ends sessions by message, not by close frames.
func (s *socket) close() { _ = s.ws.Close() }

// appendAcknowledge adds the message that carries a to b (SPEC.md §4.1).
func appendAcknowledge(b []byte, a Ack, now time.Time) []byte {
	var space [sizeAckPayload]byte
	m := Message{Type: Acknowledge, SchemaVersion: 1, Created: now, Flags: FlagSYN | FlagFIN, ID: NewUUID(), Payload: a.Append(space[:0])}
	return m.Append(b)
}

// sizeAckPayload is enough for the payload of any acknowledgement of a stream message.
const sizeAckPayload = len(ackOpen) + sizeType + len(ackID) + sizeUUIDText + len(ackNumber) + len("-9223372036854775808") + len(ackClose)
