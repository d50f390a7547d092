package agent_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"go.uber.org/goleak"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

func TestMain(m *testing.M) {
	testkit.StopIgnoringSignals()
	goleak.VerifyTestMain(m)
}

const (
	machine   = "i-0123456789abcdef0"
	sessionID = "user-0123456789abcdef0"
	patience  = testkit.Patience // for what must happen; the tests wait for events, never for time to pass
)

// service is a message gateway with the script in the test's hands: it hands out tokens, and gives every WebSocket to the test.
type service struct {
	*httptest.Server
	t       *testing.T
	control chan *peer
	data    chan *peer

	mu       sync.Mutex
	requests []*http.Request
	bodies   []string
	refuse   map[string]string // body of a 400, by kind
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{t: t, control: make(chan *peer, 8), data: make(chan *peer, 8), refuse: map[string]string{}}
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/{kind}/{id}", s.create)
	mux.HandleFunc("GET /v1/{kind}/{id}", s.upgrade)
	s.Server = httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s
}

func (s *service) create(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.requests, s.bodies = append(s.requests, r), append(s.bodies, string(body))
	if text := s.refuse[r.PathValue("kind")]; text != "" {
		http.Error(w, text, http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusCreated)
	fmt.Fprintf(w, "<Output><MessageSchemaVersion>1.0</MessageSchemaVersion><TokenValue>token-%s</TokenValue></Output>", r.PathValue("id"))
}

func (s *service) upgrade(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.requests = append(s.requests, r)
	s.mu.Unlock()
	upgrader := websocket.Upgrader{}
	ws, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	p := &peer{t: s.t, ws: ws, messages: make(chan ssmproto.Message, 1<<16), expires: time.After(2 * patience)}
	if err := ws.ReadJSON(&p.hello); err != nil {
		_ = ws.Close()
		return
	}
	if r.PathValue("kind") == "control-channel" {
		s.control <- p
	} else {
		s.data <- p
	}
	p.read()
}

func (s *service) setRefusal(kind, text string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse[kind] = text
}

// startAgent connects an agent and returns its control channel.
func (s *service) startAgent(cfg agent.Config) (*agent.Agent, *peer) {
	s.t.Helper()
	cfg.Endpoint, cfg.InstanceID, cfg.Region = s.URL, machine, "us-east-1"
	cfg.Credentials = agent.Credentials{AccessKeyID: "AKIAEXAMPLE", SecretAccessKey: "secret", SessionToken: "session"}
	cfg.Logger = slog.New(slog.NewTextHandler(s.t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
	a, err := agent.Start(context.Background(), cfg)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = a.Close() })
	return a, s.accept(s.control)
}

func (s *service) accept(from chan *peer) *peer {
	s.t.Helper()
	select {
	case p := <-from:
		s.t.Cleanup(func() { _ = p.ws.Close() })
		return p
	case <-time.After(patience):
		s.t.Fatal("no connection")
		return nil
	}
}

// peer is the service's end of one WebSocket; on a data channel it also plays the client.
type peer struct {
	t        *testing.T
	ws       *websocket.Conn
	hello    map[string]any
	messages chan ssmproto.Message // closed with the connection
	expires  <-chan time.Time      // the agent repeats itself for ever: silence alone would not end a test
	writing  sync.Mutex

	inSeq  int64 // of the next input
	expect int64 // sequence number of the next output
	early  map[int64]ssmproto.Message
}

func (p *peer) read() {
	defer close(p.messages)
	for {
		_, frame, err := p.ws.ReadMessage()
		if err != nil {
			return
		}
		m, err := ssmproto.Parse(frame)
		if err != nil {
			p.t.Errorf("the agent sent what cannot be read: %v", err)
			return
		}
		p.messages <- m
	}
}

// next returns the next message, whatever it is; false when the connection has ended.
func (p *peer) next() (ssmproto.Message, bool) {
	p.t.Helper()
	select {
	case m, ok := <-p.messages:
		return m, ok
	case <-p.expires:
		p.t.Fatal("what was waited for did not arrive")
		return ssmproto.Message{}, false
	}
}

// until skips messages until one of the type.
func (p *peer) until(kind ssmproto.MessageType) ssmproto.Message {
	p.t.Helper()
	for {
		m, ok := p.next()
		if !ok {
			p.t.Fatalf("the connection ended before %s", kind)
		}
		if m.Type == kind {
			return m
		}
	}
}

func (p *peer) write(m ssmproto.Message) {
	p.t.Helper()
	m.SchemaVersion, m.Created = 1, time.Now()
	p.writing.Lock()
	defer p.writing.Unlock()
	if err := p.ws.WriteMessage(websocket.BinaryMessage, m.Append(nil)); err != nil {
		p.t.Logf("write %s: %v", m.Type, err)
	}
}

func (p *peer) writeJSON(kind ssmproto.MessageType, payload any) {
	p.t.Helper()
	body, err := json.Marshal(payload)
	if err != nil {
		p.t.Fatal(err)
	}
	p.write(ssmproto.Message{Type: kind, Payload: body})
}

// input sends one message of the client, with the next number, and returns that number.
func (p *peer) input(kind ssmproto.PayloadType, payload string) int64 {
	p.t.Helper()
	seq := p.inSeq
	p.inSeq++
	p.inputAs(seq, kind, payload)
	return seq
}

func (p *peer) inputAs(seq int64, kind ssmproto.PayloadType, payload string) {
	p.t.Helper()
	p.write(ssmproto.Message{Type: ssmproto.InputStreamData, SequenceNumber: seq, PayloadType: kind, Payload: []byte(payload)})
}

func (p *peer) flag(f ssmproto.Flag) int64 {
	p.t.Helper()
	return p.input(ssmproto.PayloadFlag, string(binary.BigEndian.AppendUint32(nil, uint32(f))))
}

func (p *peer) ack(m ssmproto.Message) {
	p.t.Helper()
	p.writeJSON(ssmproto.Acknowledge, map[string]any{
		"AcknowledgedMessageType": m.Type, "AcknowledgedMessageId": m.ID.String(),
		"AcknowledgedMessageSequenceNumber": m.SequenceNumber, "IsSequentialMessage": true,
	})
}

// output returns the next stream message in order, acknowledging whatever comes; false when the connection has ended.
func (p *peer) output() (ssmproto.Message, bool) {
	p.t.Helper()
	for {
		if m, ok := p.early[p.expect]; ok {
			delete(p.early, p.expect)
			p.expect++
			return m, true
		}
		m, ok := p.next()
		if !ok {
			return m, false
		}
		if m.Type != ssmproto.OutputStreamData {
			continue
		}
		p.ack(m)
		if m.SequenceNumber >= p.expect {
			if p.early == nil {
				p.early = map[int64]ssmproto.Message{}
			}
			p.early[m.SequenceNumber] = m
		}
	}
}

// stream collects payloads of Output until they hold want.
func (p *peer) stream(want string) string {
	p.t.Helper()
	var got bytes.Buffer
	for !strings.Contains(got.String(), want) {
		m, ok := p.output()
		if !ok {
			p.t.Fatalf("the connection ended after %q, before %q", got.String(), want)
		}
		if m.PayloadType == ssmproto.PayloadOutput {
			got.Write(m.Payload)
		}
	}
	return got.String()
}

// awaitAck skips messages until the agent has acknowledged seq, sending what resend sends at every acknowledgement-free turn.
func (p *peer) awaitAck(seq int64) {
	p.t.Helper()
	for {
		m := p.until(ssmproto.Acknowledge)
		if acknowledgedSeq(p.t, m) == seq {
			return
		}
	}
}

func acknowledgedSeq(t *testing.T, m ssmproto.Message) int64 {
	t.Helper()
	var ack struct {
		AcknowledgedMessageSequenceNumber int64
		AcknowledgedMessageType           string
		IsSequentialMessage               bool
	}
	if err := json.Unmarshal(m.Payload, &ack); err != nil {
		t.Fatal(err)
	}
	if ack.AcknowledgedMessageType != string(ssmproto.InputStreamData) || !ack.IsSequentialMessage {
		t.Errorf("acknowledgement %s", m.Payload)
	}
	return ack.AcknowledgedMessageSequenceNumber
}

// shake answers the handshake as a client of the version, and returns the request.
func (p *peer) shake(clientVersion string) string {
	p.t.Helper()
	request, ok := p.output()
	if !ok || request.PayloadType != ssmproto.PayloadHandshakeRequest || request.SequenceNumber != 0 || request.Flags != ssmproto.FlagSYN {
		p.t.Fatalf("first message %+v", request)
	}
	p.input(ssmproto.PayloadHandshakeResponse, fmt.Sprintf(`{"ClientVersion":%q,"ProcessedClientActions":[`+
		`{"ActionType":"SessionType","ActionStatus":1,"ActionResult":null,"Error":""}],"Errors":null}`, clientVersion))
	complete, ok := p.output()
	if !ok || complete.PayloadType != ssmproto.PayloadHandshakeComplete {
		p.t.Fatalf("instead of HandshakeComplete: %+v", complete)
	}
	return string(request.Payload)
}

// document is what a test asks the agent to run.
type document struct {
	kind       string
	properties string
	inputs     string
	parameters map[string]string
	patterns   map[string]string
}

func (p *peer) startSession(doc document) {
	p.t.Helper()
	declared := map[string]any{}
	for name := range doc.parameters {
		declared[name] = map[string]string{"type": "String", "default": "", "allowedPattern": doc.patterns[name]}
	}
	if doc.properties == "" {
		doc.properties = "{}"
	}
	if doc.inputs == "" {
		doc.inputs = `{"kmsKeyId":""}`
	}
	content, err := json.Marshal(map[string]any{
		"DocumentName": "test", "SessionId": sessionID, "Parameters": doc.parameters,
		"DocumentContent": map[string]any{
			"schemaVersion": "1.0", "sessionType": doc.kind, "inputs": json.RawMessage(doc.inputs), "parameters": declared,
			"properties": json.RawMessage(doc.properties),
		},
	})
	if err != nil {
		p.t.Fatal(err)
	}
	p.writeJSON(ssmproto.InteractiveShell, map[string]any{"Content": string(content), "TaskId": "task", "Topic": "interactive_shell", "SchemaVersion": 1})
}

// completion waits for the agent's report of the end, acknowledges it and returns status and output.
func (p *peer) completion() (status, output string) {
	p.t.Helper()
	m := p.until(ssmproto.AgentTaskComplete)
	var done struct{ TaskId, FinalTaskStatus, Output, InstanceId string }
	if err := json.Unmarshal(m.Payload, &done); err != nil {
		p.t.Fatal(err)
	}
	if done.TaskId != sessionID || done.InstanceId != machine {
		p.t.Errorf("completion %s", m.Payload)
	}
	p.writeJSON(ssmproto.AgentTaskAcknowledge, map[string]any{"SchemaVersion": 1, "MessageId": m.ID.String(), "TaskId": done.TaskId, "Topic": "agent_task_complete"})
	return done.FinalTaskStatus, done.Output
}
