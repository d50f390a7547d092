package agent

import (
	"bytes"
	"errors"
	"io"
	"slices"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

func TestRoundTripFormulas(t *testing.T) {
	o := newOutgoing(false)
	start := time.UnixMilli(1_700_000_000_000)
	for seq, step := range []struct{ sample, rtt, rttVar, rto time.Duration }{
		// RTTvar = 3/4·RTTvar + 1/4·|RTT − sample|, RTT = 7/8·RTT + 1/8·sample, RTO = min(RTT + max(10 ms, 4·RTTvar), 1 s)
		{100 * time.Millisecond, 100 * time.Millisecond, 0, 110 * time.Millisecond},
		{20 * time.Millisecond, 90 * time.Millisecond, 20 * time.Millisecond, 170 * time.Millisecond},
		{10 * time.Second, 1328750 * time.Microsecond, 2492500 * time.Microsecond, time.Second},
	} {
		o.add(int64(seq), nil, start)
		o.acknowledged(int64(seq), start.Add(step.sample))
		if o.rtt != step.rtt || o.rttVar != step.rttVar || o.rto != step.rto {
			t.Errorf("after a sample of %v: RTT %v, RTTvar %v, RTO %v", step.sample, o.rtt, o.rttVar, o.rto)
		}
	}
}

func TestResendHeadOrAll(t *testing.T) {
	start := time.UnixMilli(1_700_000_000_000)
	for _, test := range []struct {
		all  bool
		want []string
	}{{false, []string{"b"}}, {true, []string{"b", "c"}}} {
		o := newOutgoing(test.all)
		for seq, frame := range []string{"a", "b", "c", "d"} {
			at := start
			if frame == "d" {
				at = start.Add(time.Second)
			}
			o.add(int64(seq), []byte(frame), at)
		}
		o.acknowledged(0, start.Add(100*time.Millisecond))
		o.acknowledged(7, start)
		var got []string
		for _, frame := range o.due(start.Add(time.Second)) {
			got = append(got, string(frame))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("all=%t: due %v", test.all, got)
		}
		if again := o.due(start.Add(time.Second)); len(again) != 0 && test.all {
			t.Errorf("due again at once: %q", again)
		}
	}
}

func TestOutgoingHasLimit(t *testing.T) {
	o := newOutgoing(false)
	for seq := range int64(maxOutgoing + 5) {
		o.add(seq, nil, time.Time{})
	}
	if len(o.unacked) != maxOutgoing || o.unacked[0].seq != 0 {
		t.Errorf("%d messages from %d", len(o.unacked), o.unacked[0].seq)
	}
	o.acknowledged(maxOutgoing/2, time.Time{})
	if len(o.unacked) != maxOutgoing-1 {
		t.Errorf("%d messages left", len(o.unacked))
	}
}

func TestIncomingHasLimit(t *testing.T) {
	var in incoming
	for seq := int64(1); seq <= maxIncoming; seq++ {
		if at := in.place(ssmproto.Message{SequenceNumber: seq}); at != placeEarly {
			t.Fatalf("%d: place %d", seq, at)
		}
	}
	for seq, want := range map[int64]place{maxIncoming + 1: placeNone, 5: placeEarly, 0: placeNext, -1: placeOld} {
		if at := in.place(ssmproto.Message{SequenceNumber: seq}); at != want {
			t.Errorf("%d: place %d, want %d", seq, at, want)
		}
	}
}

func TestVersions(t *testing.T) {
	for _, test := range []struct {
		a, b  string
		newer bool
	}{
		{"1.2.332.0", "1.2.331.0", true},
		{"1.2.331.0", "1.2.331.0", false},
		{"1.2.0.0-gimlet", "1.2.331.0", false},
		{"3.3.987.0", "3.0.196.0", true},
		{"1.10.0.0", "1.9.9.9", true},
		{"", "0.0.0.1", false},
	} {
		if got := parseVersion(test.a).newerThan(parseVersion(test.b)); got != test.newer {
			t.Errorf("%q newer than %q: %t", test.a, test.b, got)
		}
	}
}

func TestSplitWords(t *testing.T) {
	for line, want := range map[string][]string{
		`ls  -l /tmp`:        {"ls", "-l", "/tmp"},
		`a "b c" 'd "e'`:     {"a", "b c", `d "e`},
		`a\ b "c\"d" "e\f"`:  {"a b", `c"d`, `e\f`},
		`'' ""`:              {"", ""},
		"":                   nil,
		`pre"mid dle"post x`: {"premid dlepost", "x"},
	} {
		if got, err := splitWords(line); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %q, %v", line, got, err)
		}
	}
	for _, line := range []string{`"open`, `'open`, `end\`} {
		if _, err := splitWords(line); !errors.Is(err, errBadQuotes) {
			t.Errorf("%s: %v", line, err)
		}
	}
}

func TestLinePrefixes(t *testing.T) {
	l := lineMarker{prefix: []byte("> "), atStart: true}
	var got []byte
	for _, part := range []string{"one\ntw", "o\n", "", "three"} {
		got = append(got, l.mark([]byte(part))...)
	}
	if string(got) != "> one\n> two\n> three" {
		t.Errorf("got %q", got)
	}
}

// Every cut of a text is put together again, and no read ends inside a character.
func TestRunesAreNotCut(t *testing.T) {
	text := "aä€😀\xff\xfe end"
	for size := 4; size < 12; size++ {
		r := runeCutter{from: bytes.NewReader([]byte(text))}
		var got []byte
		buffer := make([]byte, size)
		for {
			n, err := r.Read(buffer)
			if whole := wholeRunes(buffer[:n]); whole != n {
				t.Errorf("size %d: a read of %q", size, buffer[:n])
			}
			got = append(got, buffer[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
		}
		if string(got) != text {
			t.Errorf("size %d: got %q", size, got)
		}
	}
}

func TestSubstituteStaysInsideItsString(t *testing.T) {
	got := substitute([]byte(`{"a":"{{ x }}","b":"{{y}}-{{ x}}"}`), map[string]string{"x": `say "hi"\` + "\n"})
	if want := `{"a":"say \"hi\"\\\n","b":"{{y}}-say \"hi\"\\\n"}`; string(got) != want {
		t.Errorf("got %s", got)
	}
}

func TestPipeKeepsItsBound(t *testing.T) {
	p := newPipe()
	data := bytes.Repeat([]byte("0123456789"), pipeSize/5) // twice what fits
	written := make(chan error, 1)
	go func() {
		_, err := p.Write(data)
		p.close()
		written <- err
	}()
	got, err := io.ReadAll(p)
	if err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d of %d bytes, %v", len(got), len(data), err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if _, err := p.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("write after close: %v", err)
	}
}
