package ssmproto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// vector is one entry of testdata/vectors.json: bytes written by the serializers of AWS's own programs, except those whose note says assembled.
type vector struct {
	Name, Note, Hex string
	Fields          struct {
		CreatedDate, SequenceNumber int64
		Flags                       uint64
		HeaderLength                int
		SchemaVersion               uint32
		MessageID                   string `json:"MessageId"`
		MessageType                 MessageType
		MessageTypePadding          string
		PayloadHex                  *string
		PayloadType                 PayloadType
	}
}

func (v *vector) frame(t testing.TB) []byte {
	t.Helper()
	b, err := hex.DecodeString(v.Hex)
	if err != nil {
		t.Fatalf("%s: %v", v.Name, err)
	}
	return b
}

func allVectors(t testing.TB) []vector {
	t.Helper()
	text, err := os.ReadFile("testdata/vectors.json")
	if err != nil {
		t.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(text, &all); err != nil {
		t.Fatal(err)
	}
	return all
}

// vectors gives the entries that are whole messages.
func vectors(t testing.TB) []vector {
	t.Helper()
	var messages []vector
	for _, v := range allVectors(t) {
		if v.Fields.HeaderLength != 0 {
			messages = append(messages, v)
		}
	}
	if len(messages) != 29 {
		t.Fatalf("%d messages among the vectors, want 29", len(messages))
	}
	return messages
}

func vectorNamed(t testing.TB, name string) vector {
	t.Helper()
	for _, v := range allVectors(t) {
		if v.Name == name {
			return v
		}
	}
	t.Fatalf("no vector %q", name)
	return vector{}
}

func TestVectorsParse(t *testing.T) {
	for _, v := range vectors(t) {
		m, err := Parse(v.frame(t))
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		w := v.Fields
		if m.Type != w.MessageType || m.SchemaVersion != w.SchemaVersion || m.SequenceNumber != w.SequenceNumber || m.Flags != w.Flags ||
			m.ID.String() != w.MessageID || m.Created.UnixMilli() != w.CreatedDate {
			t.Errorf("%s: %+v, want %+v", v.Name, m, w)
		}
		if w.HeaderLength == headerLength && m.PayloadType != w.PayloadType {
			t.Errorf("%s: payload type %d, want %d", v.Name, m.PayloadType, w.PayloadType)
		}
		if w.PayloadHex == nil || hex.EncodeToString(m.Payload) != *w.PayloadHex {
			t.Errorf("%s: payload %x", v.Name, m.Payload)
		}
	}
}

func TestVectorsAppend(t *testing.T) {
	for _, v := range vectors(t) {
		frame := v.frame(t)
		m, err := Parse(frame)
		if err != nil {
			t.Errorf("%s: %v", v.Name, err)
			continue
		}
		if v.Fields.HeaderLength != headerLength || v.Fields.MessageTypePadding != "space" {
			continue // the form of the service, which is read and never written
		}
		if got := m.Append(nil); !bytes.Equal(got, frame) {
			t.Errorf("%s:\n%x\n%x", v.Name, got, frame)
		}
	}
}

func TestEveryPrefixIsRefused(t *testing.T) {
	for _, v := range vectors(t) {
		frame := v.frame(t)
		m, err := Parse(frame)
		if err != nil {
			t.Fatal(err)
		}
		for n := range frame {
			cut, err := Parse(frame[:n:n])
			stream := m.Type == InputStreamData || m.Type == OutputStreamData
			publication := m.Type == StartPublication || m.Type == PausePublication
			if err == nil && !publication && (stream || len(cut.Payload) > 0) {
				t.Errorf("%s: the first %d of %d bytes were accepted", v.Name, n, len(frame))
			}
			if err != nil && (cut.Type != "" || cut.Payload != nil || cut.SequenceNumber != 0) {
				t.Errorf("%s: an error and a message: %+v", v.Name, cut)
			}
		}
	}
}

func TestFlippedPayloadBitIsRefused(t *testing.T) {
	for _, v := range vectors(t) {
		frame := v.frame(t)
		m, err := Parse(frame)
		if err != nil || m.Type == StartPublication || m.Type == PausePublication {
			continue
		}
		for i := len(frame) - len(m.Payload); i < len(frame); i++ {
			frame[i] ^= 0x10
			if _, err := Parse(frame); !errors.Is(err, ErrDigest) {
				t.Errorf("%s: byte %d flipped: %v", v.Name, i, err)
			}
			frame[i] ^= 0x10
		}
	}
}

func TestParseRefuses(t *testing.T) {
	good := vectorNamed(t, "input_stream_data/Output")
	for _, test := range []struct {
		name   string
		damage func(b []byte) []byte
		want   error
	}{
		{"nothing", func([]byte) []byte { return nil }, ErrShortMessage},
		{"header length 0", func(b []byte) []byte { b[3] = 0; return b }, ErrHeaderLength},
		{"header length 115", func(b []byte) []byte { b[3] = 115; return b }, ErrHeaderLength},
		{"huge header length", func(b []byte) []byte { b[0] = 0xff; return b }, ErrHeaderLength},
		{"no type", func(b []byte) []byte { copy(b[offsetType:], strings.Repeat(" ", sizeType)); return b }, ErrNoType},
		{"no date", func(b []byte) []byte { clear(b[offsetCreatedDate:offsetSequence]); return b }, ErrNoCreatedDate},
		{"other digest", func(b []byte) []byte { b[offsetDigest]++; return b }, ErrDigest},
	} {
		if _, err := Parse(test.damage(good.frame(t))); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", test.name, err, test.want)
		}
	}
}

// TestPayloadLengthIsNotBelieved keeps the rule of SPEC.md §3.4: the payload ends where the frame ends.
func TestPayloadLengthIsNotBelieved(t *testing.T) {
	v := vectorNamed(t, "input_stream_data/Output")
	frame := v.frame(t)
	copy(frame[headerLength:], []byte{0xff, 0xff, 0xff, 0xff})
	m, err := Parse(frame)
	if err != nil || string(m.Payload) != "ls -la\r" {
		t.Errorf("%q, %v", m.Payload, err)
	}
}

// TestConstants pins what is the wire's and not ours.
func TestConstants(t *testing.T) {
	for _, c := range []struct {
		name      string
		got, want int
	}{
		{"HeaderLength", headerLength, 116},
		{"HeaderLength of the service", headerLengthService, 112},
		{"Overhead", Overhead, 120},
		{"type", offsetType, 4},
		{"schema version", offsetSchemaVersion, 36},
		{"created", offsetCreatedDate, 40},
		{"sequence", offsetSequence, 48},
		{"flags", offsetFlags, 56},
		{"id", offsetID, 64},
		{"digest", offsetDigest, 80},
		{"payload type", offsetPayloadType, 112},
		{"Output", int(PayloadOutput), 1},
		{"Size", int(PayloadSize), 3},
		{"HandshakeRequest", int(PayloadHandshakeRequest), 5},
		{"HandshakeResponse", int(PayloadHandshakeResponse), 6},
		{"HandshakeComplete", int(PayloadHandshakeComplete), 7},
		{"EncChallengeRequest", int(PayloadEncChallengeRequest), 8},
		{"EncChallengeResponse", int(PayloadEncChallengeResponse), 9},
		{"Flag", int(PayloadFlag), 10},
		{"StdErr", int(PayloadStdErr), 11},
		{"ExitCode", int(PayloadExitCode), 12},
		{"DisconnectToPort", int(FlagDisconnectToPort), 1},
		{"TerminateSession", int(FlagTerminateSession), 2},
		{"ConnectToPortError", int(FlagConnectToPortError), 3},
		{"SYN", int(FlagSYN), 1},
		{"FIN", int(FlagFIN), 2},
	} {
		if c.got != c.want {
			t.Errorf("%s is %d on the wire, not %d", c.name, c.want, c.got)
		}
	}
}

func TestMessageRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Message{
			Type:           rapid.SampledFrom([]MessageType{InputStreamData, OutputStreamData, Acknowledge, ChannelClosed, "something_else"}).Draw(t, "type"),
			SchemaVersion:  rapid.Uint32().Draw(t, "schema"),
			Created:        time.UnixMilli(rapid.Int64Range(1, 1<<50).Draw(t, "created")),
			SequenceNumber: rapid.Int64().Draw(t, "seq"),
			Flags:          rapid.Uint64().Draw(t, "flags"),
			ID:             UUID(rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id")),
			PayloadType:    PayloadType(rapid.Uint32().Draw(t, "kind")),
			Payload:        rapid.SliceOfN(rapid.Byte(), 1, 3000).Draw(t, "payload"),
		}
		frame := want.Append([]byte("before"))[len("before"):]
		kept := bytes.Clone(frame)
		got, err := Parse(frame)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(kept, frame) {
			t.Fatal("the input was modified")
		}
		if !bytes.Equal(got.Append(nil), frame) || !bytes.Equal(got.Payload, want.Payload) || got.SequenceNumber != want.SequenceNumber || got.ID != want.ID {
			t.Fatalf("%+v, want %+v", got, want)
		}
	})
}

func FuzzParse(f *testing.F) {
	for _, v := range vectors(f) {
		f.Add(v.frame(f))
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		kept := bytes.Clone(frame)
		m, err := Parse(frame)
		if !bytes.Equal(kept, frame) {
			t.Fatal("the input was modified")
		}
		if err != nil {
			if m.Type != "" || m.Payload != nil {
				t.Fatal("an error and a message")
			}
			return
		}
		if len(m.Payload) > len(frame) {
			t.Fatal("the payload is larger than the frame")
		}
		again, err := Parse(m.Append(nil))
		if err != nil || again.Type != m.Type || again.SequenceNumber != m.SequenceNumber || !bytes.Equal(again.Payload, m.Payload) {
			t.Fatalf("%+v reads as %+v, %v", m, again, err)
		}
	})
}

func BenchmarkMessageAppend(b *testing.B) {
	m := Message{Type: InputStreamData, SchemaVersion: 1, Created: time.Now(), PayloadType: PayloadOutput, Payload: make([]byte, 1024)}
	buf := make([]byte, 0, smallFrame)
	b.ReportAllocs()
	b.SetBytes(1024)
	for b.Loop() {
		buf = m.Append(buf[:0])
	}
}

func BenchmarkMessageParse(b *testing.B) {
	m := Message{Type: OutputStreamData, SchemaVersion: 1, Created: time.Now(), PayloadType: PayloadOutput, Payload: make([]byte, 1024)}
	frame := m.Append(nil)
	b.ReportAllocs()
	b.SetBytes(1024)
	for b.Loop() {
		if _, err := Parse(frame); err != nil {
			b.Fatal(err)
		}
	}
}
