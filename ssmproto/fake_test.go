package ssmproto

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// fake is the service and the agent in one, in memory and scripted. It shares the message codec with the code under test, and nothing else: its
// bookkeeping is maps and slices, so that one mistake cannot sit on both sides.
type fake struct {
	t        testing.TB
	listener *pipeListener
	server   *http.Server
	serving  sync.WaitGroup

	// The script. Set before Dial, or through with.
	request    string                                    // the handshake request; empty for a session without
	complete   bool                                      // send HandshakeComplete after the response
	relay      func(toAgent bool, frame []byte) [][]byte // what becomes of a frame; nil passes it on
	onData     func(p []byte)                            // Output that is in order; nil collects
	onFlag     func(Flag)                                // nil acknowledges and nothing else
	onOther    func(Message)                             // the messages that are neither Output nor a flag, besides
	refuseData func(seq int64) bool                      // leave unacknowledged, like an agent that is not ready
	silent     bool                                      // send no acknowledgements
	resumeWith func(context.Context) (Token, error)      // nil gives a token

	mu         sync.Mutex
	changed    sync.Cond
	ws         *websocket.Conn
	writing    chan struct{} // a lock whose waiting synctest understands
	expected   int64
	ahead      map[int64]Message
	received   []byte
	sizes      []int
	others     []Message // sequenced messages that are not Output, in order
	next       int64
	unacked    map[int64][]byte
	acks       map[int64]int // how often each of our messages was acknowledged
	openings   []openDataChannel
	tokens     int
	valid      string
	terminated int
	arrivals   map[int64]int // how often each sequence number arrived
	frames     map[int64][]byte
	discovers  bool  // the client may try larger payloads
	probed     []int // the sizes that arrived
	pings      int
	deaf       bool // answers no pings and hears nothing
	stop       chan struct{}
	stopped    bool
}

const portRequest = `{"AgentVersion":"3.3.987.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":` +
	`{"SessionType":"Port","Properties":{"portNumber":"22"}}}]}`

const muxRequest = `{"AgentVersion":"3.3.987.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":` +
	`{"SessionType":"Port","Properties":{"portNumber":"22","type":"LocalPortForwarding"}}}]}`

func newFake(t testing.TB) *fake {
	f := &fake{
		t: t, listener: newPipeListener(), request: portRequest, complete: true,
		ahead: map[int64]Message{}, unacked: map[int64][]byte{}, acks: map[int64]int{}, arrivals: map[int64]int{}, frames: map[int64][]byte{},
		valid: "token-0", writing: make(chan struct{}, 1), stop: make(chan struct{}),
	}
	f.changed.L = &f.mu
	f.server = &http.Server{Handler: http.HandlerFunc(f.serve)}
	f.serving.Go(func() { _ = f.server.Serve(f.listener) })
	f.serving.Go(f.repeat)
	t.Cleanup(f.shutdown)
	return f
}

func (f *fake) shutdown() {
	select {
	case <-f.stop:
		return
	default:
	}
	close(f.stop)
	f.with(func() { f.stopped = true })
	_ = f.server.Close()
	f.cut()
	f.serving.Wait()
}

func (f *fake) grant() Grant {
	return Grant{
		SessionID: "user-0123456789abcdef0", StreamURL: "ws://fake/v1/data-channel/user-0123456789abcdef0?role=publish_subscribe", Token: NewToken("token-0"),
		Resume: func(ctx context.Context, _ string) (Token, error) {
			if f.resumeWith != nil {
				return f.resumeWith(ctx)
			}
			return f.freshToken(), nil
		},
		Terminate: func(context.Context, string) error {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.terminated++
			return nil
		},
	}
}

func (f *fake) freshToken() Token {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tokens++
	f.valid = fmt.Sprintf("token-%d", f.tokens)
	return NewToken(f.valid)
}

func (f *fake) options() *Options {
	return &Options{MessageRate: -1, Dialer: &websocket.Dialer{NetDialContext: f.listener.dial}}
}

// dial opens a session, to be closed at the end of the test.
func (f *fake) dial(change ...func(*Options)) *Conn {
	f.t.Helper()
	o := f.options()
	for _, c := range change {
		c(o)
	}
	c, err := Dial(f.t.Context(), f.grant(), o)
	if err != nil {
		f.t.Fatalf("dial: %v", err)
	}
	f.t.Cleanup(func() { _ = c.CloseNow() })
	return c
}

// serve is one connection of the client.
func (f *fake) serve(w http.ResponseWriter, r *http.Request) {
	f.serving.Add(1)
	defer f.serving.Done()
	ws, err := (&websocket.Upgrader{}).Upgrade(w, r, nil)
	if err != nil {
		return
	}
	defer func() { _ = ws.Close() }()
	ws.SetPingHandler(func(p string) error {
		deaf := false
		f.with(func() { f.pings++; deaf = f.deaf })
		if deaf {
			return nil
		}
		return ws.WriteControl(websocket.PongMessage, []byte(p), time.Now().Add(time.Second))
	})
	var opening openDataChannel
	if kind, text, err := ws.ReadMessage(); err != nil || kind != websocket.TextMessage || json.Unmarshal(text, &opening) != nil {
		return
	}
	f.mu.Lock()
	f.openings = append(f.openings, opening)
	authentic := opening.TokenValue == f.valid
	f.valid = "" // usable once
	first := len(f.openings) == 1
	if authentic {
		f.ws = ws
	}
	f.changed.Broadcast()
	f.mu.Unlock()
	if !authentic {
		return
	}
	if first && f.request != "" {
		f.send(PayloadHandshakeRequest, []byte(f.request))
	}
	for {
		_, frame, err := ws.ReadMessage()
		if err != nil {
			return
		}
		for _, one := range f.faults(true, frame) {
			f.take(one)
		}
	}
}

func (f *fake) faults(toAgent bool, frame []byte) [][]byte {
	f.mu.Lock()
	relay := f.relay
	f.mu.Unlock()
	if relay == nil {
		return [][]byte{frame}
	}
	return relay(toAgent, frame)
}

// take is the agent's receiver.
func (f *fake) take(frame []byte) {
	m, err := Parse(frame)
	if err != nil {
		f.t.Errorf("the client sent an unreadable frame: %v", err)
		return
	}
	if m.Type == Acknowledge {
		var a struct{ AcknowledgedMessageSequenceNumber int64 }
		if err := json.Unmarshal(m.Payload, &a); err != nil {
			f.t.Errorf("the client sent an unreadable acknowledgement: %v", err)
		}
		f.with(func() {
			delete(f.unacked, a.AcknowledgedMessageSequenceNumber)
			f.acks[a.AcknowledgedMessageSequenceNumber]++
		})
		return
	}
	if m.Type != InputStreamData {
		f.t.Errorf("the client sent %q", m.Type)
		return
	}
	f.mu.Lock()
	f.arrivals[m.SequenceNumber]++
	if f.isProbe(m) {
		f.probed = append(f.probed, len(m.Payload))
		f.mu.Unlock()
		f.acknowledge(m)
		return
	}
	if before, again := f.frames[m.SequenceNumber]; again && string(before) != string(frame) {
		f.t.Errorf("message %d was not repeated byte for byte", m.SequenceNumber)
	}
	f.frames[m.SequenceNumber] = frame
	f.changed.Broadcast()
	refuse := f.refuseData != nil && f.refuseData(m.SequenceNumber)
	if refuse {
		f.mu.Unlock()
		return
	}
	if m.SequenceNumber >= f.expected {
		f.ahead[m.SequenceNumber] = m
	}
	silent := f.silent
	f.mu.Unlock()
	if !silent {
		f.acknowledge(m)
	}
	f.inOrder()
}

// isProbe recognizes a large message with a number that was acknowledged before, where the test expects such. The caller holds mu.
func (f *fake) isProbe(m Message) bool {
	if !f.discovers || m.SequenceNumber >= f.expected {
		return false
	}
	before, err := Parse(f.frames[m.SequenceNumber])
	return err == nil && before.ID != m.ID
}

func (f *fake) acknowledge(m Message) {
	payload := fmt.Sprintf(`{"AcknowledgedMessageType":%q,"AcknowledgedMessageId":%q,"AcknowledgedMessageSequenceNumber":%d,"IsSequentialMessage":true}`,
		m.Type, m.ID, m.SequenceNumber)
	ack := Message{Type: Acknowledge, SchemaVersion: 1, Created: time.Now(), Flags: 3, ID: NewUUID(), Payload: []byte(payload)}
	f.emit(ack.Append(nil))
}

// inOrder hands on what is in order.
func (f *fake) inOrder() {
	for {
		f.mu.Lock()
		m, ok := f.ahead[f.expected]
		if !ok {
			f.mu.Unlock()
			return
		}
		delete(f.ahead, f.expected)
		f.expected++
		onData, onFlag, onOther := f.onData, f.onFlag, f.onOther
		switch m.PayloadType {
		case PayloadOutput:
			f.sizes = append(f.sizes, len(m.Payload))
			if onData == nil {
				f.received = append(f.received, m.Payload...)
			}
		default:
			f.others = append(f.others, m)
		}
		f.changed.Broadcast()
		f.mu.Unlock()
		switch {
		case m.PayloadType == PayloadOutput && onData != nil:
			onData(m.Payload)
		case m.PayloadType == PayloadHandshakeResponse && f.complete:
			f.send(PayloadHandshakeComplete, []byte(`{"HandshakeTimeToComplete":2260902,"CustomerMessage":""}`))
		case m.PayloadType != PayloadOutput && m.PayloadType != PayloadFlag && onOther != nil:
			onOther(m)
		case m.PayloadType == PayloadFlag && onFlag != nil:
			if flag, err := ParseFlag(m.Payload); err == nil {
				onFlag(flag)
			}
		}
	}
}

// send is the agent's sender.
func (f *fake) send(kind PayloadType, payload []byte) {
	f.mu.Lock()
	m := Message{Type: OutputStreamData, SchemaVersion: 1, Created: time.Now(), SequenceNumber: f.next, ID: NewUUID(), PayloadType: kind, Payload: payload}
	if f.next == 0 {
		m.Flags = FlagSYN
	}
	frame := m.Append(nil)
	f.unacked[f.next] = frame
	f.next++
	f.changed.Broadcast()
	f.mu.Unlock()
	f.emit(frame)
}

// write sends data in pieces of at most 1024 bytes.
func (f *fake) write(p []byte) {
	for len(p) > 0 {
		n := min(len(p), 1024)
		f.send(PayloadOutput, p[:n])
		p = p[n:]
	}
}

// service sends a message of the service.
func (f *fake) service(kind MessageType, payload string) {
	m := Message{Type: kind, SchemaVersion: 1, Created: time.Now(), ID: NewUUID(), Payload: []byte(payload)}
	f.emit(m.Append(nil))
}

func (f *fake) closeSession(output string) {
	text, err := json.Marshal(map[string]any{"MessageType": "channel_closed", "SessionId": "user-0123456789abcdef0", "Output": output, "SchemaVersion": 1})
	if err != nil {
		f.t.Error(err)
	}
	f.service(ChannelClosed, string(text))
}

func (f *fake) emit(frame []byte) {
	f.writing <- struct{}{}
	defer func() { <-f.writing }()
	f.mu.Lock()
	ws := f.ws
	f.mu.Unlock()
	if ws == nil {
		return
	}
	for _, one := range f.faults(false, frame) {
		transmit(ws, one)
	}
}

func transmit(ws *websocket.Conn, frame []byte) {
	_ = ws.SetWriteDeadline(time.Now().Add(time.Hour))
	_ = ws.WriteMessage(websocket.BinaryMessage, frame)
}

// deliver brings the client a frame that relay has kept back.
func (f *fake) deliver(frame []byte) {
	f.writing <- struct{}{}
	defer func() { <-f.writing }()
	f.mu.Lock()
	ws := f.ws
	f.mu.Unlock()
	if ws != nil {
		transmit(ws, frame)
	}
}

// repeat resends what was not acknowledged, all of it, twenty times a second. It sleeps while there is nothing, for the sake of virtual days.
func (f *fake) repeat() {
	for {
		f.mu.Lock()
		for len(f.unacked) == 0 && !f.stopped {
			f.changed.Wait()
		}
		f.mu.Unlock()
		timer := time.NewTimer(50 * time.Millisecond)
		select {
		case <-f.stop:
			timer.Stop()
			return
		case <-timer.C:
		}
		var frames [][]byte
		f.with(func() {
			for seq := range f.next {
				if frame, ok := f.unacked[seq]; ok && len(frames) < 64 {
					frames = append(frames, frame)
				}
			}
		})
		for _, frame := range frames {
			f.emit(frame)
		}
	}
}

// cut loses the connection.
func (f *fake) cut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ws != nil {
		_ = f.ws.Close()
		f.ws = nil
	}
}

// bye ends the connection as AWS does every hour.
func (f *fake) bye() {
	f.mu.Lock()
	ws := f.ws
	f.mu.Unlock()
	if ws != nil {
		_ = ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, "Bye"), time.Now().Add(time.Second))
		f.cut()
	}
}

func (f *fake) with(do func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	do()
	f.changed.Broadcast()
}

// await waits until met, which runs under the lock.
func (f *fake) await(what string, met func() bool) {
	f.t.Helper()
	f.awaitFor(30*time.Second, what, met)
}

func (f *fake) awaitFor(limit time.Duration, what string, met func() bool) {
	f.t.Helper()
	expired := false
	timer := time.AfterFunc(limit, func() { f.with(func() { expired = true }) })
	defer timer.Stop()
	f.mu.Lock()
	defer f.mu.Unlock()
	for !met() {
		if expired {
			f.t.Fatalf("in vain: waiting for %s", what)
		}
		f.changed.Wait()
	}
}
