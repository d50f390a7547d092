package awsemu_test

import (
	"context"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// A bare client and a bare agent: WebSockets without any behavior, so that the tests see what the relay does and nothing else.

// peer is one WebSocket to the emulator.
type peer struct {
	t  testing.TB
	ws *websocket.Conn
}

func dial(t testing.TB, url, token string) *peer {
	t.Helper()
	dialer := websocket.Dialer{HandshakeTimeout: testkit.Patience}
	ws, response, err := dialer.DialContext(deadline(t), url, nil)
	if err != nil {
		t.Fatalf("dialing %s: %v", url, err)
	}
	if response.Header.Get(awsemu.HeaderEmulator) == "" {
		t.Error("the upgrade does not say that it is the emulator's")
	}
	p := &peer{t: t, ws: ws}
	t.Cleanup(func() { _ = ws.Close() })
	hello := fmt.Sprintf(`{"MessageSchemaVersion":"1.0","RequestId":"r","TokenValue":%q,"ClientId":"c"}`, token)
	if err := ws.WriteMessage(websocket.TextMessage, []byte(hello)); err != nil {
		t.Fatal(err)
	}
	return p
}

// send writes a message; sequence number and payload are all that matters to the relay.
func (p *peer) send(kind ssmproto.MessageType, sequence int64, payload string) []byte {
	p.t.Helper()
	m := ssmproto.Message{
		Type: kind, SchemaVersion: 1, Created: time.UnixMilli(1_700_000_000_000), SequenceNumber: sequence, ID: ssmproto.UUID{1, 2, 3},
		PayloadType: ssmproto.PayloadOutput, Payload: []byte(payload),
	}
	frame := m.Append(nil)
	if err := p.ws.WriteMessage(websocket.BinaryMessage, frame); err != nil {
		p.t.Fatal(err)
	}
	return frame
}

// raw gives the next frame, or the error that ended the WebSocket.
func (p *peer) raw() ([]byte, error) {
	if err := p.ws.SetReadDeadline(time.Now().Add(testkit.Patience)); err != nil {
		return nil, err
	}
	_, frame, err := p.ws.ReadMessage()
	return frame, err
}

// receive gives the next message and fails the test when there is none.
func (p *peer) receive() ssmproto.Message {
	p.t.Helper()
	frame, err := p.raw()
	if err != nil {
		p.t.Fatalf("waiting for a message: %v", err)
	}
	m, err := ssmproto.Parse(frame)
	if err != nil {
		p.t.Fatal(err)
	}
	return m
}

// expect receives a message of a type.
func (p *peer) expect(kind ssmproto.MessageType) ssmproto.Message {
	p.t.Helper()
	m := p.receive()
	if m.Type != kind {
		p.t.Fatalf("received %s (%s), want %s", m.Type, m.Payload, kind)
	}
	return m
}

// ended waits for the WebSocket to end and gives the error.
func (p *peer) ended() error {
	p.t.Helper()
	for {
		if _, err := p.raw(); err != nil {
			return err
		}
	}
}

// machine is the agent's control channel.
type machine struct {
	*peer
	server *awsemu.Server
	id     string
}

// attachAgent opens the control channel of a machine.
func attachAgent(t testing.TB, s *awsemu.Server, id string) *machine {
	t.Helper()
	token := channelToken(t, s, "control-channel", id)
	p := dial(t, wsURL(s)+"/v1/control-channel/"+id+"?role=subscribe&stream=input", token)
	if err := s.WaitAgent(deadline(t), id); err != nil {
		t.Fatal(err)
	}
	return &machine{peer: p, server: s, id: id}
}

func wsURL(s *awsemu.Server) string { return "ws" + strings.TrimPrefix(s.PlainURL(), "http") }

// postChannel asks for a token and gives status and body.
func postChannel(ctx context.Context, s *awsemu.Server, kind, id string) (*http.Response, error) {
	body := strings.NewReader(`{"MessageSchemaVersion":"1.0","RequestId":"r"}`)
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.PlainURL()+"/v1/"+kind+"/"+id, body)
	if err != nil {
		return nil, err
	}
	request.Close = true
	return http.DefaultClient.Do(request)
}

func channelToken(t testing.TB, s *awsemu.Server, kind, id string) string {
	t.Helper()
	response, err := postChannel(deadline(t), s, kind, id)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	var answer struct {
		MessageSchemaVersion string
		TokenValue           string
	}
	if err := xml.NewDecoder(response.Body).Decode(&answer); err != nil || response.StatusCode != http.StatusCreated || answer.MessageSchemaVersion != "1.0" {
		t.Fatalf("%s %s: status %d, %+v, %v", kind, id, response.StatusCode, answer, err)
	}
	return answer.TokenValue
}

// invitation is what interactive_shell tells the agent.
type invitation struct {
	DocumentName    string
	DocumentContent struct {
		SessionType string `json:"sessionType"`
	}
	SessionID    string `json:"SessionId"`
	Parameters   map[string]string
	SessionOwner string
}

// invited waits for interactive_shell.
func (m *machine) invited() invitation {
	m.t.Helper()
	var outer struct{ Content, TaskId, Topic string }
	if err := json.Unmarshal(m.expect(ssmproto.InteractiveShell).Payload, &outer); err != nil {
		m.t.Fatal(err)
	}
	var inner invitation
	if err := json.Unmarshal([]byte(outer.Content), &inner); err != nil {
		m.t.Fatal(err)
	}
	return inner
}

// join opens the agent's side of a session.
func (m *machine) join(sessionID string) *peer {
	m.t.Helper()
	token := channelToken(m.t, m.server, "data-channel", sessionID)
	return dial(m.t, wsURL(m.server)+"/v1/data-channel/"+sessionID+"?role=publish_subscribe", token)
}

// talk is a session with both sides connected.
type talk struct {
	id      string
	url     string
	control *machine
	client  *peer
	agent   *peer
}

// startTalk starts a session to the web server and waits until both sides are connected.
func startTalk(t testing.TB, s *awsemu.Server, as aws.Config) *talk {
	t.Helper()
	talk := startTalkOf(t, s, as)
	waitInfo(t, s, talk.id, func(i awsemu.SessionInfo) bool { return i.Status == awsemu.StatusConnected })
	return talk
}

// startTalkOf is startTalk for sessions that may not live long.
func startTalkOf(t testing.TB, s *awsemu.Server, as aws.Config) *talk {
	t.Helper()
	control := attachAgent(t, s, webID)
	out, err := ssmClient(as).StartSession(deadline(t), &ssm.StartSessionInput{Target: aws.String(webID), DocumentName: aws.String("AWS-StartSSHSession")})
	if err != nil {
		t.Fatal(err)
	}
	talk := &talk{id: *out.SessionId, url: *out.StreamUrl, control: control}
	if got := control.invited().SessionID; got != talk.id {
		t.Fatalf("the agent is invited to %s, not %s", got, talk.id)
	}
	talk.agent = control.join(talk.id)
	talk.client = dial(t, talk.url, *out.TokenValue)
	return talk
}

// info finds a session.
func info(t testing.TB, s *awsemu.Server, id string) awsemu.SessionInfo {
	t.Helper()
	for _, i := range s.Sessions() {
		if i.ID == id {
			return i
		}
	}
	t.Fatalf("no session %s", id)
	return awsemu.SessionInfo{}
}

// waitInfo waits until a session is as wanted.
func waitInfo(t testing.TB, s *awsemu.Server, id string, want func(awsemu.SessionInfo) bool) {
	t.Helper()
	if err := s.WaitSession(deadline(t), id, want); err != nil {
		t.Fatalf("session %s is %+v: %v", id, info(t, s, id), err)
	}
}
