package bridge

import (
	"context"
	"errors"
	"io"
	"slices"
	"testing"

	"golang.org/x/crypto/ssh"
)

// panicking is an observer with a fault.
type panicking struct{ *recorder }

func (panicking) ChannelRequest(*ChannelInfo, string, string) { panic("fault in the observer") }

func TestPanicEndsThisConnectionOnly(t *testing.T) {
	r := newRig(t, rigOptions{
		onOpen: runProgram(func(ssh.Channel, string) {}),
		config: func(c *Config) { c.Watch = panicking{newRecorder()} },
	})
	ch, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	if _, err := ch.SendRequest("shell", true, nil); !errors.Is(err, io.EOF) {
		t.Errorf("got %v, want the connection's end", err)
	}
	if err := r.wait(t); !errors.Is(err, errPanic) {
		t.Errorf("ended with %v", err)
	}
}

func TestPanicOfTheWayUpRefusesWhatWaits(t *testing.T) {
	r := newRig(t, rigOptions{up: func(context.Context) (*Link, error) { panic("fault on the way up") }})
	if _, _, err := r.client.OpenChannel("session", nil); err == nil {
		t.Error("a session without a machine")
	}
	if err := r.wait(t); !errors.Is(err, errPanic) {
		t.Errorf("ended with %v", err)
	}
}

// pieces reads one piece after the other, of the sizes given.
type pieces struct{ sizes []int }

func (p *pieces) Read(b []byte) (int, error) {
	if len(p.sizes) == 0 {
		return 0, io.EOF
	}
	n := min(len(b), p.sizes[0])
	if p.sizes[0] -= n; p.sizes[0] == 0 {
		p.sizes = p.sizes[1:]
	}
	return n, nil
}

// sizes records what was written in one call each.
type sizes struct {
	got   []int
	fails bool
}

func (s *sizes) Write(p []byte) (int, error) {
	s.got = append(s.got, len(p))
	if s.fails {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func TestCarryUsesLargeBuffersOnlyInFullFlow(t *testing.T) {
	var out sizes
	moved := 0
	err := carry(&out, &pieces{[]int{1, smallCopy + bulkCopy + bulkCopy, 5, 20_000}}, smallCopy, func(n int) { moved += n })
	want := []int{1, smallCopy, bulkCopy, bulkCopy, 5, smallCopy, 20_000 - smallCopy}
	if err != nil || !slices.Equal(out.got, want) || moved != 6+smallCopy+2*bulkCopy+20_000 {
		t.Errorf("%v, wrote %v, want %v; moved %d", err, out.got, want, moved)
	}
}

func TestCarryReadsOnWhenNobodyTakesIt(t *testing.T) {
	out := sizes{fails: true}
	moved := 0
	err := carry(&out, &pieces{[]int{10, 20, 30}}, smallCopy, func(n int) { moved += n })
	if !errors.Is(err, io.ErrClosedPipe) || moved != 60 || len(out.got) != 1 {
		t.Errorf("%v after %d bytes and %d writes", err, moved, len(out.got))
	}
}

// FuzzPayloads feeds every parser of a peer's message what a peer may send. They must not panic; what they accept has ports that exist.
func FuzzPayloads(f *testing.F) {
	f.Add(directTo("localhost", 22))
	f.Add(ssh.Marshal(tcpListen{"", 0}))
	f.Add(ssh.Marshal(struct{ Path, R string }{"/tmp/s", ""}))
	f.Add([]byte{0, 0, 0, 255, 'x'})
	f.Fuzz(func(t *testing.T, payload []byte) {
		for _, read := range []func(*ChannelInfo, []byte) error{readTCP, readSocket} {
			var info ChannelInfo
			if err := read(&info, payload); err == nil && (info.Port < 0 || info.Port > maxPort) {
				t.Errorf("port %d", info.Port)
			}
		}
		for kind := range clientGlobals {
			if at, err := readBind(&ssh.Request{Type: kind, Payload: payload}); err == nil && at.port > maxPort {
				t.Errorf("%s: port %d", kind, at.port)
			}
		}
		if p, ok := ReadProgram(&ssh.Request{Type: "exec", Payload: payload}); ok && string(p.payload()) != string(payload) {
			t.Errorf("exec %q is written back as %q", payload, p.payload())
		}
		_, _ = FirstString(payload)
	})
}
