package agent_test

import (
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// connected is an SSH session whose destination has spoken: the agent's handler is ready.
func connected(t *testing.T, cfg agent.Config) (s *service, control, data *peer, conn net.Conn) {
	t.Helper()
	s, control, data, conns := startPort(t, cfg, sshDocument)
	data.shake(modernClient)
	conn = receive(t, conns)
	t.Cleanup(func() { _ = conn.Close() })
	if _, err := io.WriteString(conn, "ready"); err != nil {
		t.Fatal(err)
	}
	data.stream("ready")
	data.awaitAck(data.input(ssmproto.PayloadSize, `{"cols":1,"rows":1}`)) // ignored and acknowledged: the handler is there
	return s, control, data, conn
}

func expectRead(t *testing.T, conn net.Conn, want string) {
	t.Helper()
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	got := make([]byte, len(want))
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != want {
		t.Fatalf("the destination read %q, %v; want %q", got, err, want)
	}
}

func TestInputIsOrderedOnce(t *testing.T) {
	_, _, data, conn := connected(t, agent.Config{})
	first := data.inSeq
	for _, step := range []struct {
		offset int64
		text   string
	}{{2, "c"}, {1, "b"}, {1, "b"}, {3, "d"}, {0, "a"}, {0, "a"}, {2, "c"}, {4, "e"}} {
		data.inputAs(first+step.offset, ssmproto.PayloadOutput, step.text)
		data.awaitAck(first + step.offset) // early ones, duplicates and old ones too
	}
	expectRead(t, conn, "abcde")
}

func TestDigestIsNotChecked(t *testing.T) {
	_, _, data, conn := connected(t, agent.Config{})
	m := ssmproto.Message{
		Type: ssmproto.InputStreamData, SchemaVersion: 1, Created: time.Now(), SequenceNumber: data.inSeq,
		PayloadType: ssmproto.PayloadOutput, Payload: []byte("right"),
	}
	frame := m.Append(nil)
	copy(frame[len(frame)-5:], "wrong")
	if sha256.Sum256([]byte("wrong")) == [32]byte(frame[80:112]) {
		t.Fatal("the digest fits")
	}
	if err := data.ws.WriteMessage(websocket.BinaryMessage, frame); err != nil {
		t.Fatal(err)
	}
	expectRead(t, conn, "wrong")
}

func TestDigestIsCheckedOnRequest(t *testing.T) {
	_, _, data, conn := connected(t, agent.Config{Quirks: agent.Quirks{CheckDigest: true}})
	m := ssmproto.Message{
		Type: ssmproto.InputStreamData, SchemaVersion: 1, Created: time.Now(), SequenceNumber: data.inSeq,
		PayloadType: ssmproto.PayloadOutput, Payload: []byte("right"),
	}
	frame := m.Append(nil)
	frame[len(frame)-1] ^= 1
	if err := data.ws.WriteMessage(websocket.BinaryMessage, frame); err != nil {
		t.Fatal(err)
	}
	data.input(ssmproto.PayloadOutput, "right")
	expectRead(t, conn, "right")
}

// What comes before the handshake is complete is acknowledged and lost.
func TestEarlyDataIsLost(t *testing.T) {
	_, _, data, conns := startPort(t, agent.Config{}, sshDocument)
	if m, ok := data.output(); !ok || m.PayloadType != ssmproto.PayloadHandshakeRequest {
		t.Fatalf("first message %+v", m)
	}
	data.awaitAck(data.input(ssmproto.PayloadOutput, "too early"))
	data.input(ssmproto.PayloadHandshakeResponse, `{"ClientVersion":"1.2.694.0","ProcessedClientActions":[]}`)
	conn := receive(t, conns)
	defer conn.Close()
	if _, err := io.WriteString(conn, "ready"); err != nil {
		t.Fatal(err)
	}
	data.stream("ready")
	data.inputUntilAcked("in time")
	expectRead(t, conn, "in time")
}

func TestEarlyDataIsKeptOnRequest(t *testing.T) {
	_, _, data, conns := startPort(t, agent.Config{Quirks: agent.Quirks{KeepEarlyData: true, DialFirst: true}}, sshDocument)
	if m, ok := data.output(); !ok || m.PayloadType != ssmproto.PayloadHandshakeRequest {
		t.Fatalf("first message %+v", m)
	}
	data.inputAs(0, ssmproto.PayloadOutput, "too early") // left unacknowledged: the number is free for the response
	data.input(ssmproto.PayloadHandshakeResponse, `{"ClientVersion":"1.2.694.0","ProcessedClientActions":[]}`)
	conn := receive(t, conns)
	defer conn.Close()
	data.inputUntilAcked("in time")
	expectRead(t, conn, "in time")
}

func TestOutputIsRepeatedUntilAcknowledged(t *testing.T) {
	// Without latency an acknowledgement may come before the agent has noted its message, and an older message then stands in front for ever.
	_, _, data, conn := connected(t, agent.Config{Quirks: agent.Quirks{RecordBeforeSending: true}})
	if _, err := io.WriteString(conn, "again and again"); err != nil {
		t.Fatal(err)
	}
	next := func() (m ssmproto.Message) {
		for m = data.until(ssmproto.OutputStreamData); m.SequenceNumber < data.expect; m = data.until(ssmproto.OutputStreamData) {
			data.ack(m) // once more: the first acknowledgement was late
		}
		return m
	}
	first, second := next(), next()
	if first.SequenceNumber != second.SequenceNumber || first.ID != second.ID || string(first.Payload) != string(second.Payload) {
		t.Errorf("sent %+v, then %+v", first, second)
	}
	if string(first.Payload) != "again and again" || first.Flags != 0 {
		t.Errorf("sent %+v", first)
	}
}

// One message for each read of at most 1,024 bytes.
func TestReadsAreSmall(t *testing.T) {
	_, _, data, conn := connected(t, agent.Config{})
	text := strings.Repeat("0123456789abcdef", 1024)
	go func() { _, _ = io.WriteString(conn, text) }()
	var got strings.Builder
	for got.Len() < len(text) {
		m, ok := data.output()
		if !ok {
			t.Fatal("the connection ended")
		}
		if len(m.Payload) > 1024 {
			t.Errorf("a payload of %d bytes", len(m.Payload))
		}
		got.Write(m.Payload)
	}
	if got.String() != text {
		t.Error("the text has changed")
	}
}

func TestPauseStopsReadingUntilInput(t *testing.T) {
	_, _, data, conn := connected(t, agent.Config{})
	data.write(ssmproto.Message{Type: ssmproto.PausePublication})
	// A terminate flag in front of an unexpected number would be early; any input lifts the pause, so nothing but output of the destination is sent here.
	if _, err := io.WriteString(conn, "held"); err != nil {
		t.Fatal(err)
	}
	data.write(ssmproto.Message{Type: ssmproto.StartPublication})
	data.stream("held")
	data.write(ssmproto.Message{Type: ssmproto.PausePublication})
	if _, err := io.WriteString(conn, "held again"); err != nil {
		t.Fatal(err)
	}
	data.input(ssmproto.PayloadOutput, "any input")
	data.stream("held again")
	expectRead(t, conn, "any input")
}

// A lost socket costs neither data nor numbers; the handshake is not repeated.
func TestDataChannelReconnects(t *testing.T) {
	s, control, data, conn := connected(t, agent.Config{})
	_ = data.ws.Close()
	if _, err := io.WriteString(conn, "across"); err != nil {
		t.Fatal(err)
	}
	again := s.accept(s.data)
	again.inSeq, again.expect = data.inSeq, data.expect
	if got := again.stream("across"); got != "across" {
		t.Errorf("got %q", got)
	}
	again.awaitAck(again.input(ssmproto.PayloadOutput, "and back"))
	expectRead(t, conn, "and back")
	again.awaitAck(again.flag(ssmproto.FlagTerminateSession))
	if status, _ := control.completion(); status != "Success" {
		t.Errorf("completion %s", status)
	}
}

// When the service says that the session is over the agent stops asking, and the control channel ends the session.
func TestReconnectStopsForEndedSession(t *testing.T) {
	s, control, data, conn := connected(t, agent.Config{})
	s.setRefusal("data-channel", "Session is already terminated")
	_ = data.ws.Close()
	control.writeJSON(ssmproto.ChannelClosed, map[string]string{"SessionId": sessionID, "MessageType": "channel_closed"})
	if status, _ := control.completion(); status != "Success" {
		t.Errorf("completion %s", status)
	}
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the destination: %v", err)
	}
}

func TestChannelClosedOnDataChannelEndsSession(t *testing.T) {
	_, control, data, _ := connected(t, agent.Config{})
	data.writeJSON(ssmproto.ChannelClosed, map[string]string{"SessionId": sessionID, "MessageType": "channel_closed"})
	if status, _ := control.completion(); status != "Success" {
		t.Errorf("completion %s", status)
	}
}
