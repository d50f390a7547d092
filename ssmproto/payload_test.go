package ssmproto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func payloadOf(t testing.TB, name string) []byte {
	t.Helper()
	v := vectorNamed(t, name)
	m, err := Parse(v.frame(t))
	if err != nil {
		t.Fatal(err)
	}
	return m.Payload
}

func TestAckIsTheVector(t *testing.T) {
	for _, name := range []string{"acknowledge", "acknowledge/agent"} {
		payload := payloadOf(t, name)
		a, err := ParseAck(payload)
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := a.Append(nil); !bytes.Equal(got, payload) {
			t.Errorf("%s: %s, want %s", name, got, payload)
		}
	}
}

func TestAckInAnyJSON(t *testing.T) {
	want := Ack{Type: InputStreamData, SequenceNumber: 3, ID: UUID{0x81, 0x2e, 0xf3, 0x4f, 0x87, 0xbd, 0x44, 0x9e, 0xa3, 0xde, 0x28, 0x2f, 0x47, 0x8b, 0xa6, 0xe6}}
	for _, text := range []string{
		`{ "IsSequentialMessage": true, "AcknowledgedMessageSequenceNumber": 3, "AcknowledgedMessageType": "input_stream_data",
			"AcknowledgedMessageId": "812EF34F-87BD-449E-A3DE-282F478BA6E6", "New": {} }`,
		`{"AcknowledgedMessageType":"input_stream_data","AcknowledgedMessageId":"812ef34f-87bd-449e-a3de-282f478ba6e6",` +
			`"AcknowledgedMessageSequenceNumber":3,"IsSequentialMessage":true}`,
	} {
		if got, err := ParseAck([]byte(text)); err != nil || got != want {
			t.Errorf("%+v, %v", got, err)
		}
	}
	for _, text := range []string{
		"", "null", "{}", "[]", "3", `{"AcknowledgedMessageSequenceNumber":"3"}`, `{"AcknowledgedMessageSequenceNumber":1e40}`,
		`{"AcknowledgedMessageSequenceNumber":3,"AcknowledgedMessageId":"no uuid"}`,
	} {
		if got, err := ParseAck([]byte(text)); !errors.Is(err, ErrAck) || got != (Ack{}) {
			t.Errorf("%q: %+v, %v", text, got, err)
		}
	}
}

// TestAckFastAndSlowAgree compares the hand-written reader with the JSON library on everything Append writes.
func TestAckFastAndSlowAgree(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := Ack{
			Type:           rapid.SampledFrom([]MessageType{InputStreamData, OutputStreamData}).Draw(t, "type"),
			ID:             UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")),
			SequenceNumber: rapid.Int64().Draw(t, "seq"),
		}
		text := a.Append(nil)
		if got, err := ParseAck(text); err != nil || got != a {
			t.Fatalf("%+v, %v, want %+v", got, err, a)
		}
		var slow map[string]any
		if err := json.Unmarshal(text, &slow); err != nil || slow["AcknowledgedMessageId"] != a.ID.String() {
			t.Fatalf("%s: %v", text, err)
		}
		if len(text) > sizeAckPayload {
			t.Fatalf("%d bytes, more than sizeAckPayload", len(text))
		}
	})
}

func TestAcknowledgeIsTheVector(t *testing.T) {
	v := vectorNamed(t, "acknowledge")
	want, err := Parse(v.frame(t))
	if err != nil {
		t.Fatal(err)
	}
	a, err := ParseAck(want.Payload)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Parse(appendAcknowledge(nil, a, want.Created))
	if err != nil {
		t.Fatal(err)
	}
	if got.ID == (UUID{}) || got.ID[6]>>4 != 4 {
		t.Errorf("id %v is not a random one", got.ID)
	}
	got.ID = want.ID
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestHandshakeRequestVectors(t *testing.T) {
	request, err := ParseHandshakeRequest(payloadOf(t, "output_stream_data/HandshakeRequest-Port"))
	if err != nil {
		t.Fatal(err)
	}
	p, response, err := answer(request, "1.2.694.0", nil)
	if err != nil {
		t.Fatal(err)
	}
	want := peer{agentVersion: "3.3.987.0", sessionType: SessionPort, port: PortProperties{PortNumber: "22", LocalPortNumber: "0", Type: "LocalPortForwarding"}}
	if p != want {
		t.Errorf("%+v, want %+v", p, want)
	}
	text, err := response.Append(nil)
	if err != nil || !bytes.Equal(text, payloadOf(t, "input_stream_data/HandshakeResponse")) {
		t.Errorf("%s, %v", text, err)
	}
}

func TestHandshakeThatCannotBeMet(t *testing.T) {
	for name, test := range map[string]struct {
		actions string
		status  ActionStatus
		want    string
	}{
		"encryption":      {`[{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k"}}]`, ActionUnsupported, ErrEncryption.Error()},
		"unknown action":  {`[{"ActionType":"Dance","ActionParameters":{}}]`, ActionUnsupported, `ssmproto: the agent requests "Dance", which is unknown`},
		"unknown session": {`[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Tango"}}]`, ActionFailed, `ssmproto: session type "Tango" is unknown`},
	} {
		request, err := ParseHandshakeRequest([]byte(`{"AgentVersion":"3.3.0.0","RequestedClientActions":` + test.actions + `}`))
		if err != nil {
			t.Fatal(err)
		}
		_, response, err := answer(request, DefaultClientVersion, nil)
		if err == nil || err.Error() != test.want {
			t.Errorf("%s: %v, want %s", name, err, test.want)
		}
		if len(response.ProcessedClientActions) != 1 || response.ProcessedClientActions[0].ActionStatus != test.status || len(response.Errors) != 1 {
			t.Errorf("%s: %+v", name, response)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, test := range []struct {
		a, b  string
		after bool
	}{
		{"3.0.196.0", "3.0.196.0", false},
		{"3.0.196.1", "3.0.196.0", true},
		{"3.0.197.0", "3.0.196.0", true},
		{"2.9.999.0", "3.0.196.0", false},
		{"3.10.0.0", "3.9.0.0", true},
		{"", "3.0.196.0", false},
		{"3.1", "3.0.196.0", true},
		{"3.0.196", "3.0.196.0", false},
		{"x.y", "0.0.0.0", false},
	} {
		if got := versionAfter(test.a, test.b); got != test.after {
			t.Errorf("%q after %q: %v", test.a, test.b, got)
		}
	}
	if !versionAfter(DefaultClientVersion, "1.2.331.0") {
		t.Error("our version makes the agent send keepalives")
	}
}

func TestSmallPayloads(t *testing.T) {
	if got := (Size{Cols: 80, Rows: 24}).Append(nil); !bytes.Equal(got, payloadOf(t, "input_stream_data/Size")) {
		t.Errorf("size %s", got)
	}
	for name, want := range map[string]Flag{
		"input_stream_data/Flag-DisconnectToPort": FlagDisconnectToPort, "input_stream_data/Flag-TerminateSession": FlagTerminateSession,
		"output_stream_data/Flag-ConnectToPortError": FlagConnectToPortError,
	} {
		payload := payloadOf(t, name)
		if flag, err := ParseFlag(payload); err != nil || flag != want || !bytes.Equal(flag.Append(nil), payload) {
			t.Errorf("%s: %v, %v", name, flag, err)
		}
		for n := range payload {
			if _, err := ParseFlag(payload[:n]); !errors.Is(err, ErrFlagPayload) {
				t.Errorf("%d bytes of a flag: %v", n, err)
			}
		}
	}
	if code, err := ParseExitCode(payloadOf(t, "output_stream_data/ExitCode")); err != nil || code == 0 {
		t.Errorf("exit code %d, %v", code, err)
	}
	for _, text := range []string{"", "EXIT_CODE: ", "EXIT_CODE: x", "5"} {
		if _, err := ParseExitCode([]byte(text)); !errors.Is(err, ErrExitCodePayload) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if h, err := ParseHandshakeComplete(payloadOf(t, "output_stream_data/HandshakeComplete")); err != nil || h.HandshakeTimeToComplete != 250*time.Millisecond {
		t.Errorf("%+v, %v", h, err)
	}
	for _, name := range []string{"channel_closed/HL112", "channel_closed/HL116"} {
		if c, err := ParseChannelClosed(payloadOf(t, name)); err != nil || c.Output != "" || c.SessionID != "user-0123456789abcdef0" {
			t.Errorf("%s: %+v, %v", name, c, err)
		}
	}
}

func TestOpeningFrame(t *testing.T) {
	text, err := appendOpenDataChannel(nil, NewToken("secret"), UUID{15: 1}, "1.2.694.0")
	if err != nil {
		t.Fatal(err)
	}
	var got map[string]string
	if err := json.Unmarshal(text, &got); err != nil {
		t.Fatal(err)
	}
	if _, ok := parseUUID([]byte(got["RequestId"])); !ok {
		t.Errorf("request id %q", got["RequestId"])
	}
	delete(got, "RequestId")
	want := map[string]string{
		"MessageSchemaVersion": "1.0", "TokenValue": "secret", "ClientId": "00000000-0000-0000-0000-000000000001", "ClientVersion": "1.2.694.0",
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestUUIDText(t *testing.T) {
	const text = "812ef34f-87bd-449e-a3de-282f478ba6e6"
	u, ok := parseUUID([]byte(text))
	if !ok || u.String() != text || string(u.appendText(nil)) != text {
		t.Errorf("%v, %v", u, ok)
	}
	for _, bad := range []string{"", text[1:], text + "0", strings.ReplaceAll(text, "-", "0"), "g" + text[1:], hex.EncodeToString(u[:])} {
		if _, ok := parseUUID([]byte(bad)); ok {
			t.Errorf("%q was read", bad)
		}
	}
}

func FuzzParseAck(f *testing.F) {
	f.Add(payloadOf(f, "acknowledge"))
	f.Add([]byte(`{"AcknowledgedMessageSequenceNumber":00}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		fast, ok := parseUsualAck(payload)
		got, err := ParseAck(payload)
		if ok && (err != nil || got != fast) {
			t.Fatalf("%+v, %v", got, err)
		}
		if ok {
			var slow struct{ AcknowledgedMessageSequenceNumber int64 }
			if err := json.Unmarshal(payload, &slow); err != nil || slow.AcknowledgedMessageSequenceNumber != fast.SequenceNumber {
				t.Fatalf("the library reads %+v, %v", slow, err)
			}
		}
	})
}

func FuzzHandshakeRequest(f *testing.F) {
	f.Add(payloadOf(f, "output_stream_data/HandshakeRequest-Port"))
	f.Add(payloadOf(f, "output_stream_data/HandshakeRequest-KMS"))
	f.Fuzz(func(t *testing.T, payload []byte) {
		request, err := ParseHandshakeRequest(payload)
		if err != nil {
			return
		}
		_, response, refused := answer(request, DefaultClientVersion, nil)
		if len(response.ProcessedClientActions) != len(request.RequestedClientActions) {
			t.Fatal("an action was not answered")
		}
		for _, a := range response.ProcessedClientActions {
			if a.ActionStatus != ActionSuccess && refused == nil {
				t.Fatal("a failed action, and no error")
			}
		}
		if _, err := response.Append(nil); err != nil {
			t.Fatal(err)
		}
	})
}

func FuzzChannelClosed(f *testing.F) {
	f.Add(payloadOf(f, "channel_closed/HL112"))
	f.Add([]byte(`{"Output":"Forwarding to IP address 169.254.169.254 is forbidden."}`))
	f.Fuzz(func(t *testing.T, payload []byte) {
		c, err := ParseChannelClosed(payload)
		if err != nil && c != (ChannelClosedPayload{}) {
			t.Fatal("an error and a content")
		}
	})
}

func BenchmarkAck(b *testing.B) {
	a := Ack{Type: OutputStreamData, ID: NewUUID(), SequenceNumber: 123456}
	buf := make([]byte, 0, 512)
	now := time.Now()
	b.Run("append", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			buf = appendAcknowledge(buf[:0], a, now)
		}
	})
	b.Run("parse", func(b *testing.B) {
		payload := a.Append(nil)
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseAck(payload); err != nil {
				b.Fatal(err)
			}
		}
	})
}
