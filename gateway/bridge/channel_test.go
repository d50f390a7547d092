package bridge

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

var endings = map[string]func(ch ssh.Channel, tail string){
	"status first, output after it": func(ch ssh.Channel, tail string) {
		exitWith(ch, 3)
		_, _ = io.WriteString(ch, tail)
		_ = ch.CloseWrite()
		_ = ch.Close()
	},
	"EOF before status": func(ch ssh.Channel, tail string) {
		_, _ = io.WriteString(ch, tail)
		_ = ch.CloseWrite()
		exitWith(ch, 3)
		_ = ch.Close()
	},
	"no EOF at all": func(ch ssh.Channel, tail string) {
		_, _ = io.WriteString(ch, tail)
		exitWith(ch, 3)
		_ = ch.Close()
	},
}

func TestNoEndingLosesOutputOrStatus(t *testing.T) {
	tail := strings.Repeat("tail", 50_000) // 200 kB: several windows' worth of packets
	for name, ending := range endings {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{onOpen: runProgram(func(ch ssh.Channel, _ string) { ending(ch, tail) })})
			s := r.session(t)
			out, err := s.Output("work")
			var exit *ssh.ExitError
			if !errors.As(err, &exit) || exit.ExitStatus() != 3 {
				t.Errorf("got %v, want exit status 3", err)
			}
			if string(out) != tail {
				t.Errorf("got %d bytes of output, want %d", len(out), len(tail))
			}
		})
	}
}

type frames struct {
	mu   sync.Mutex
	sent []string
}

func (f *frames) add(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.sent); n == 0 || f.sent[n-1] != what {
		f.sent = append(f.sent, what)
	}
}

func (f *frames) wrap(l Leg) Leg {
	wrapped := make(chan ssh.NewChannel)
	inner := l.Chans
	go func() {
		defer close(wrapped)
		for nc := range inner {
			wrapped <- watchedOpen{nc, f}
		}
	}()
	l.Chans = wrapped
	return l
}

type watchedOpen struct {
	ssh.NewChannel
	to *frames
}

func (w watchedOpen) Accept() (ssh.Channel, <-chan *ssh.Request, error) {
	ch, reqs, err := w.NewChannel.Accept()
	return watchedChannel{ch, w.to}, reqs, err
}

type watchedChannel struct {
	ssh.Channel
	to *frames
}

func (w watchedChannel) Write(p []byte) (int, error) {
	w.to.add("data")
	return w.Channel.Write(p)
}

func (w watchedChannel) CloseWrite() error {
	w.to.add("EOF")
	return w.Channel.CloseWrite()
}

func (w watchedChannel) Close() error {
	w.to.add("CLOSE")
	return w.Channel.Close()
}

func (w watchedChannel) SendRequest(name string, wantReply bool, payload []byte) (bool, error) {
	w.to.add(name)
	return w.Channel.SendRequest(name, wantReply, payload)
}

func TestExitStatusPrecedesEOFAndClose(t *testing.T) {
	for name, ending := range endings {
		t.Run(name, func(t *testing.T) {
			var f frames
			r := newRig(t, rigOptions{
				wrap:   f.wrap,
				config: func(c *Config) { c.Limits.EOFHold = testkit.Patience },
				onOpen: runProgram(func(ch ssh.Channel, _ string) { ending(ch, "tail") }),
			})
			_ = r.session(t).Run("work")
			testkit.Receive(t, r.watch.closed, "the channel's end")
			f.mu.Lock()
			defer f.mu.Unlock()
			status, eof, end := slices.Index(f.sent, "exit-status"), slices.Index(f.sent, "EOF"), slices.Index(f.sent, "CLOSE")
			if status < 0 || eof < status || end < eof || end != len(f.sent)-1 || !slices.Contains(f.sent, "data") {
				t.Errorf("frames: %v", f.sent)
			}
		})
	}
}

// TestExitStatusOfAProgramThatClosedItsOutputEarly has a client without input: EOF would make OpenSSH's client close the channel before the status comes.
func TestExitStatusOfAProgramThatClosedItsOutputEarly(t *testing.T) {
	var f frames
	over := make(chan struct{})
	r := newRig(t, rigOptions{
		wrap:   f.wrap,
		config: func(c *Config) { c.Limits.EOFHold = time.Millisecond },
		onOpen: runProgram(func(ch ssh.Channel, _ string) {
			_, _ = io.ReadAll(ch)
			_ = ch.CloseWrite()
			select { // what must not happen can only be waited for
			case <-over:
			case <-time.After(100 * time.Millisecond):
			}
			exitWith(ch, 3)
			_ = ch.Close()
		}),
	})
	ch, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ S string }{"work"})); !ok || err != nil {
		t.Fatalf("exec: %v, %v", ok, err)
	}
	_ = ch.CloseWrite()
	_, _ = io.ReadAll(ch)
	close(over)
	testkit.Receive(t, r.watch.closed, "the channel's end")
	f.mu.Lock()
	defer f.mu.Unlock()
	if status, eof := slices.Index(f.sent, "exit-status"), slices.Index(f.sent, "EOF"); status < 0 || eof < status {
		t.Errorf("frames: %v", f.sent)
	}
}

func TestInputWaitsForTheProgram(t *testing.T) {
	// Like sshd: what comes before the program is lost, an EOF included.
	early := make(chan string, 1)
	r := newRig(t, rigOptions{onOpen: func(nc ssh.NewChannel) {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		started := make(chan struct{})
		go func() {
			first := make([]byte, 1)
			n, err := ch.Read(first)
			select {
			case <-started:
				early <- ""
			default:
				early <- fmt.Sprintf("%d bytes, %v", n, err)
			}
			rest, _ := io.ReadAll(ch)
			_, _ = ch.Write(append(first[:n], rest...))
			exitWith(ch, 0)
			_ = ch.Close()
		}()
		for req := range reqs {
			if req.Type == "exec" {
				close(started)
			}
			_ = req.Reply(req.Type == "exec", nil)
		}
	}})
	ch, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	_, _ = io.WriteString(ch, "input")
	_ = ch.CloseWrite()
	if ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ S string }{"none"})); ok || err != nil {
		t.Fatalf("subsystem: %v, %v; want a refusal", ok, err)
	}
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ S string }{"cat"})); !ok || err != nil {
		t.Fatalf("exec: %v, %v", ok, err)
	}
	if got := testkit.Receive(t, early, "the first byte"); got != "" {
		t.Errorf("arrived before the program: %s", got)
	}
	if out, _ := io.ReadAll(ch); string(out) != "input" {
		t.Errorf("echo %q", out)
	}
	_ = ch.Close()
}

func TestRequestsKeepTheirOrderAndTheirWantReply(t *testing.T) {
	const burst = 32 // twice the library's own queue
	type seen struct {
		name string
		want bool
	}
	got := make(chan seen, burst+3)
	release := make(chan struct{})
	r := newRig(t, rigOptions{onOpen: func(nc ssh.NewChannel) {
		_, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		<-release // not one reply until all have been sent
		for req := range reqs {
			got <- seen{req.Type, req.WantReply}
			_ = req.Reply(true, nil)
		}
	}})
	ch, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	answers := make(chan error, 1)
	go func() {
		for i := range burst {
			if _, err := ch.SendRequest(fmt.Sprintf("unknown-%d@example.org", i), i%2 == 0 && i == burst-2, nil); err != nil {
				answers <- err
				return
			}
		}
		answers <- nil
	}()
	// The rest of the connection goes on meanwhile.
	testkit.Within(t, "a keepalive beside the burst", func() {
		if ok, _, err := r.client.SendRequest(KeepAliveRequest, true, nil); ok || err != nil {
			t.Errorf("keepalive: %v, %v; want a failure", ok, err)
		}
	})
	close(release)
	for i := range burst {
		want := seen{fmt.Sprintf("unknown-%d@example.org", i), i == burst-2}
		if s := testkit.Receive(t, got, "a request"); s != want {
			t.Fatalf("request %d: got %v, want %v", i, s, want)
		}
	}
	if err := testkit.Receive(t, answers, "the answers"); err != nil {
		t.Error(err)
	}
	_ = ch.Close()
}

func TestOutputMayEndBeforeTheProgramDoes(t *testing.T) {
	// exec >&- 2>&-; read line; exit 9
	r := newRig(t, rigOptions{onOpen: runProgram(func(ch ssh.Channel, _ string) {
		_ = ch.CloseWrite()
		if line, _ := io.ReadAll(ch); string(line) == "after your EOF" {
			exitWith(ch, 9)
		}
		_ = ch.Close()
	})})
	s := r.session(t)
	in, err := s.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("work"); err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "the end of output", func() { _, _ = io.ReadAll(out) })
	_, _ = io.WriteString(in, "after your EOF")
	_ = in.Close()
	var exit *ssh.ExitError
	if err := s.Wait(); !errors.As(err, &exit) || exit.ExitStatus() != 9 {
		t.Errorf("ended with %v", err)
	}
}
