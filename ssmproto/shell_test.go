package ssmproto

import (
	"errors"
	"io"
	"strings"
	"testing"
	"time"
)

func commandRequest() string {
	return strings.Replace(portRequest, `"Port","Properties":{"portNumber":"22"}`, `"NonInteractiveCommands","Properties":null`, 1)
}

func TestCommandWithSeparateOutput(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.request = commandRequest()
		s, err := DialShell(t.Context(), f.grant(), f.options())
		if err != nil {
			t.Fatal(err)
		}
		f.send(PayloadOutput, []byte("out"))
		f.send(PayloadStdErr, []byte("err"))
		if _, known := s.ExitCode(); known {
			t.Error("an exit code before the end")
		}
		f.send(PayloadExitCode, []byte("EXIT_CODE: 7"))
		f.closeSession("")
		for want, stream := range map[string]io.Reader{"out": s, "err": s.Stderr()} {
			if got, err := io.ReadAll(stream); string(got) != want || err != nil {
				t.Errorf("%q, %v, want %q", got, err, want)
			}
		}
		if code, known := s.ExitCode(); code != 7 || !known {
			t.Errorf("exit code %d, known %v", code, known)
		}
		_ = s.Close()
	})
}

// TestSessionThatIsOverWhenDialLooks was open all the same: its exit code must not depend on how soon who dials gets a processor.
func TestSessionThatIsOverWhenDialLooks(t *testing.T) {
	c := newConn(Grant{SessionID: "s"}, (*Options)(nil).resolved())
	c.mu.Lock()
	c.enter(Handshaking)
	c.dispatch(&frame{kind: PayloadHandshakeComplete, rest: []byte("{}")})
	c.dispatch(&frame{kind: PayloadExitCode, rest: []byte("EXIT_CODE: 7")})
	c.closedByService([]byte(`{"MessageType":"channel_closed","Output":""}`))
	c.mu.Unlock()
	if err := c.awaitOpening(t.Context()); err != nil {
		t.Error(err)
	}
	s := Shell{c}
	if code, known := s.ExitCode(); code != 7 || !known {
		t.Errorf("exit code %d, known %v", code, known)
	}
	if got, err := io.ReadAll(s); len(got) > 0 || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_ = s.CloseNow()
}

func TestTerminal(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.request = strings.Replace(commandRequest(), "NonInteractiveCommands", SessionStandardStream, 1)
		s, err := DialShell(t.Context(), f.grant(), f.options())
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Resize(Size{Cols: 120, Rows: 40}); err != nil {
			t.Error(err)
		}
		mustWrite(t, s, []byte("sleep 100\r"))
		if err := s.Signal(Interrupt); err != nil {
			t.Error(err)
		}
		f.await("the input", func() bool { return len(f.received) == 11 })
		f.with(func() { equal(t, "input", f.received, []byte("sleep 100\r\x03")) })
		f.with(func() { equal(t, "size", string(f.others[1].Payload), `{"cols":120,"rows":40}`) })
		_ = s.Close()
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 1) }) // the flag is for ports only
		if err := s.Signal(Interrupt); err == nil {
			t.Error("a signal after the end")
		}
	})
}

// TestSilentProgram reads before it writes, in a session without a handshake.
func TestSilentProgram(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.request = ""
		start := time.Now()
		s, err := DialShell(t.Context(), f.grant(), f.options())
		if err != nil || time.Since(start) != 15*time.Second {
			t.Fatalf("after %v: %v", time.Since(start), err)
		}
		equal(t, "type", s.SessionType(), SessionStandardStream)
		mustWrite(t, s, []byte("input"))
		f.await("the input", func() bool { return string(f.received) == "input" })
		f.send(PayloadOutput, []byte("at last"))
		mustRead(t, s, []byte("at last"))
		_ = s.Close()
	})
}

// TestLateHandshake: an agent that begins its handshake after that throws away what was written before, so the session has to end loudly.
func TestLateHandshake(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.request = ""
		s, err := DialShell(t.Context(), f.grant(), f.options())
		if err != nil {
			t.Fatal(err)
		}
		mustWrite(t, s, []byte("input"))
		f.send(PayloadHandshakeRequest, []byte(commandRequest()))
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrHandshakeTimeout) {
			t.Errorf("%v", err)
		}
		_ = s.Close()
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 1) })
	})
}

// TestSilentAgent is a shell with nobody behind it: what is written is never acknowledged, and that has an end.
func TestSilentAgent(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.request, f.silent = "", true
		s, err := DialShell(t.Context(), f.grant(), f.options())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		mustWrite(t, s, []byte("input"))
		if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrPeerSilent) || time.Since(start) < 5*time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		_ = s.CloseNow()
	})
}

// TestConnWithoutStderr: a plain Conn is not stopped by what it does not read.
func TestConnWithoutStderr(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.request = commandRequest()
		c := f.dial(func(o *Options) { o.ReadBuffer = 10 << 10 })
		for range 100 {
			f.send(PayloadStdErr, noise(1, 1000))
		}
		f.write([]byte("out"))
		mustRead(t, c, []byte("out"))
	})
}
