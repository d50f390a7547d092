package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

const (
	closeWait        = 2 * time.Second // for outstanding acknowledgements, SPEC.md §8.3
	reconnectTries   = 6
	reconnectFirst   = 100 * time.Millisecond // to 199 ms, doubling
	reconnectLongest = 5 * time.Second
)

// Why a message of the client is not acknowledged: the client has to send it again.
var (
	errNotReady = errors.New("the session's handler is not ready")
	errNoPeer   = errors.New("the destination is not connected")
)

// channel is the data channel of one session: an ordered stream each way over WebSockets that come and go (SPEC.md §4).
type channel struct {
	agent *Agent
	id    string
	log   *slog.Logger

	in       incoming
	afterAck func() // set by a handler, run by the reader once the message it handled has been acknowledged

	order sync.Mutex // held from numbering to writing, so that numbers leave in order
	next  int64

	mu      sync.Mutex
	socket  *socket
	out     outgoing
	paused  bool
	resumed chan struct{} // closed when the pause ends
	drained chan struct{} // closed when nothing is unacknowledged, while someone waits
	input   func(ssmproto.Message) error
	secret  *blockCipher // of an encrypted session; changes with order held as well

	onClosed func() // the service says that the session is over
	wait     sync.WaitGroup
	cancel   context.CancelFunc
}

// openChannel connects and starts to read and to resend. close ends it.
func (a *Agent) openChannel(ctx context.Context, id string, onClosed func()) (*channel, error) {
	c := &channel{
		agent: a, id: id, log: a.log.With("session", id), out: newOutgoing(a.cfg.Quirks.ResendAll), onClosed: onClosed,
	}
	ctx, c.cancel = context.WithCancel(ctx)
	s, err := c.connect(ctx)
	if err != nil {
		c.cancel()
		return nil, err
	}
	c.wait.Go(func() { c.keep(ctx, s) })
	c.wait.Go(func() { c.resend(ctx) })
	return c, nil
}

// connect opens a socket, with the budget of the real agent: six tries within about six seconds (SPEC.md §13.5).
func (c *channel) connect(ctx context.Context) (*socket, error) {
	delay := jitter(reconnectFirst)
	for try := 1; ; try++ {
		s, err := c.agent.gateway.openData(ctx, c.id)
		if err == nil {
			c.mu.Lock()
			c.socket = s
			c.mu.Unlock()
			c.unpause()
			return s, nil
		}
		c.log.Debug("data channel", "try", try, "err", err)
		if try == reconnectTries || errors.Is(err, errTerminated) || !sleep(ctx, delay) {
			return nil, fmt.Errorf("data channel of %s: %w", c.id, err)
		}
		delay = min(2*delay, reconnectLongest)
	}
}

// keep reads, and reconnects with the state kept. When that fails the session goes on without a channel, until the control channel ends it.
func (c *channel) keep(ctx context.Context, s *socket) {
	for {
		stop := s.closeWith(ctx)
		err := c.read(s)
		stop()
		s.close()
		if ctx.Err() != nil {
			return
		}
		c.log.Debug("data channel lost", "err", err)
		if s, err = c.connect(ctx); err != nil {
			c.log.Debug("data channel given up", "err", err)
			return
		}
	}
}

func (c *channel) read(s *socket) error {
	for {
		frame, err := s.read()
		if err != nil {
			return err
		}
		m, err := parseFrame(frame, c.agent.cfg.Quirks.CheckDigest)
		if err != nil {
			c.log.Debug("message dropped", "err", err)
			continue
		}
		c.receive(m)
	}
}

func (c *channel) receive(m ssmproto.Message) {
	switch m.Type {
	case ssmproto.InputStreamData:
		c.unpause()
		c.receiveInput(m)
	case ssmproto.Acknowledge:
		c.unpause()
		var ack acknowledgement
		if err := json.Unmarshal(m.Payload, &ack); err != nil {
			c.log.Debug("acknowledgement dropped", "err", err)
			return
		}
		c.acknowledged(ack.SequenceNumber)
	case ssmproto.PausePublication:
		c.pause()
	case ssmproto.StartPublication:
		c.unpause()
	case ssmproto.ChannelClosed:
		c.onClosed()
	default:
		c.log.Debug("message ignored", "type", string(m.Type))
	}
}

func (c *channel) receiveInput(m ssmproto.Message) {
	switch c.in.place(m) {
	case placeNone:
	case placeOld, placeEarly:
		c.acknowledge(m)
	case placeNext:
		if err := c.handle(m); err != nil {
			c.log.Debug("input left unacknowledged", "seq", m.SequenceNumber, "err", err)
			return
		}
		c.acknowledge(m)
		c.handled()
		c.drainEarly()
	}
}

// drainEarly processes what had come too early. It is acknowledged already: what cannot be processed now is stuck, as in the real agent (SPEC.md §4.4).
func (c *channel) drainEarly() {
	for m, ok := c.in.next(); ok; m, ok = c.in.next() {
		if err := c.handle(m); err != nil {
			c.log.Debug("acknowledged input is stuck", "seq", m.SequenceNumber, "err", err)
			return
		}
		c.handled()
	}
}

func (c *channel) handled() {
	c.in.advance()
	if after := c.afterAck; after != nil {
		c.afterAck = nil
		after()
	}
}

func (c *channel) handle(m ssmproto.Message) error {
	c.mu.Lock()
	input, secret := c.input, c.secret
	c.mu.Unlock()
	if input == nil {
		return errNotReady
	}
	if secret != nil && m.PayloadType == ssmproto.PayloadOutput {
		plain, err := secret.open(m.Payload)
		if err != nil {
			return err
		}
		m.Payload = plain
	}
	return input(m)
}

// encryptWith encrypts what is sent from now on, and decrypts what is received.
func (c *channel) encryptWith(secret *blockCipher) {
	c.order.Lock()
	defer c.order.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secret = secret
}

func (c *channel) encrypts() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.secret != nil
}

// handleWith replaces who gets the input. Nil means that nobody is ready.
func (c *channel) handleWith(input func(ssmproto.Message) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.input = input
}

// acknowledgement is SPEC.md §4.1.
type acknowledgement struct {
	Type           ssmproto.MessageType `json:"AcknowledgedMessageType"`
	ID             string               `json:"AcknowledgedMessageId"`
	SequenceNumber int64                `json:"AcknowledgedMessageSequenceNumber"`
	Sequential     bool                 `json:"IsSequentialMessage"`
}

func (c *channel) acknowledge(m ssmproto.Message) {
	c.sendPlain(ssmproto.Acknowledge, acknowledgement{m.Type, m.ID.String(), m.SequenceNumber, true})
}

// sendPlain sends a message that is not sequenced. A failure needs no answer: the reader sees the broken socket too.
func (c *channel) sendPlain(kind ssmproto.MessageType, payload any) {
	body, err := json.Marshal(payload)
	if err != nil {
		c.log.Debug("encode", "type", string(kind), "err", err)
		return
	}
	c.mu.Lock()
	s := c.socket
	c.mu.Unlock()
	m := ssmproto.Message{
		Type: kind, SchemaVersion: 1, Created: time.Now(), Flags: ssmproto.FlagSYN | ssmproto.FlagFIN, ID: newID(), Payload: body,
	}
	if err := s.send(&m); err != nil {
		c.log.Debug("send", "type", string(kind), "err", err)
	}
}

// send numbers, sends and remembers one stream message. An empty payload is skipped (SPEC.md §3.5).
func (c *channel) send(kind ssmproto.PayloadType, payload []byte) {
	if len(payload) == 0 {
		return
	}
	c.order.Lock()
	defer c.order.Unlock()
	if c.secret != nil && encrypted(kind) { // changes only with order held
		payload = c.secret.seal(payload)
	}
	m := ssmproto.Message{
		Type: ssmproto.OutputStreamData, SchemaVersion: 1, Created: time.Now(), SequenceNumber: c.next, ID: newID(), PayloadType: kind, Payload: payload,
	}
	if c.next == 0 {
		m.Flags = ssmproto.FlagSYN
	}
	c.next++
	frame := m.Append(make([]byte, 0, ssmproto.Overhead+len(payload)))
	recordFirst := c.agent.cfg.Quirks.RecordBeforeSending
	c.mu.Lock()
	s, paused := c.socket, c.paused
	if paused || recordFirst {
		c.out.add(m.SequenceNumber, frame, time.Now())
	}
	c.mu.Unlock()
	if paused {
		return // only the resend scheduler sends it, SPEC.md §4.5
	}
	if err := s.write(websocket.BinaryMessage, frame); err != nil {
		c.log.Debug("send", "seq", m.SequenceNumber, "err", err)
	}
	if !recordFirst {
		c.mu.Lock()
		c.out.add(m.SequenceNumber, frame, time.Now())
		c.mu.Unlock()
	}
}

// close drops the socket and waits for reader and scheduler. A reader that is inside a handler returns when the handler does.
func (c *channel) close() {
	c.cancel()
	c.wait.Wait()
}

// parseFrame reads a frame. The real agent does not compare the digest: what differs is then made to agree.
func parseFrame(frame []byte, checkDigest bool) (ssmproto.Message, error) {
	m, err := ssmproto.Parse(frame)
	if checkDigest || !errors.Is(err, ssmproto.ErrDigest) {
		return m, err
	}
	return ssmproto.Parse(withDigest(frame))
}
