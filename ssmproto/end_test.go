package ssmproto

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

func newTestLogger(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// TestCloseDeliversTheTail: the flag that ends the session follows the acknowledgement of the last data (SPEC.md §7.2).
func TestCloseDeliversTheTail(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		start := time.Now()
		f.with(func() { f.refuseData = func(seq int64) bool { return seq > 10 && time.Since(start) < time.Second } })
		up := noise(1, 40_000)
		mustWrite(t, c, up)
		f.with(func() {
			f.onFlag = func(flag Flag) {
				equal(t, "flag", flag, FlagTerminateSession)
				f.mu.Lock()
				defer f.mu.Unlock()
				if !bytes.Equal(f.received, up) {
					t.Error("the flag came before the tail")
				}
			}
		})
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		f.await("the handshake response and the flag", func() bool { return len(f.others) == 2 }) // acknowledged first, taken then
		f.with(func() { equal(t, "bytes that arrived", len(f.received), len(up)) })
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 0) })
		if err := c.Close(); err != nil {
			t.Errorf("again: %v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write: %v", err)
		}
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v", err)
		}
	})
}

func TestCloseOfWhatWasHeldBack(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.WaitForPeer = true })
		mustWrite(t, c, []byte("x"))
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		f.await("what was held back", func() bool { return string(f.received) == "x" })
	})
}

func TestCloseGivesUp(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		f.with(func() { f.silent = true })
		mustWrite(t, c, []byte("lost"))
		start := time.Now()
		if err := c.Close(); !errors.Is(err, ErrUndelivered) || time.Since(start) != 5*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 1) })
	})
}

func TestCloseOfAnAgentThatDoesNotAnswer(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		f.with(func() { f.silent = true })
		start := time.Now()
		if err := c.Close(); err != nil || time.Since(start) != goodbyeLimit {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 1) })
	})
}

func TestCloseNowCutsCloseShort(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		f.with(func() { f.silent = true })
		mustWrite(t, c, []byte("lost"))
		start := time.Now()
		time.AfterFunc(time.Second, func() { _ = c.CloseNow() })
		if err := c.Close(); !errors.Is(err, ErrUndelivered) || time.Since(start) != time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 1) })
	})
}

func TestCloseWakesReadAndWrite(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.Window = 2 * smallFrame })
		f.with(func() { f.silent = true })
		ends := make(chan error, 2)
		go func() { _, err := c.Read(make([]byte, 1)); ends <- err }()
		go func() { _, err := c.Write(noise(1, 100_000)); ends <- err }()
		synctest.Wait()
		_ = c.CloseNow()
		for range 2 {
			if err := <-ends; !errors.Is(err, net.ErrClosed) {
				t.Errorf("%v", err)
			}
		}
	})
}

// TestCloseWhileTheConnectionIsLost: the last data is delivered through a resumed connection.
func TestCloseWhileTheConnectionIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		f.cut()
		mustWrite(t, c, []byte("tail"))
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		f.with(func() { equal(t, "arrived", string(f.received), "tail") })
	})
}

func TestEndOfSession(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		f.write([]byte("goodbye"))
		f.closeSession("")
		synctest.Wait()
		got, err := io.ReadAll(c)
		if string(got) != "goodbye" || err != nil {
			t.Errorf("%q, %v", got, err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, ErrSessionOver) {
			t.Errorf("write: %v", err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 0) })
	})
}

func TestEndOfSessionWithText(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		f.closeSession("Forwarding to IP address 169.254.169.254 is forbidden.")
		_, err := c.Read(make([]byte, 1))
		var ended *SessionEndedError
		if !errors.As(err, &ended) || ended.Output != "Forwarding to IP address 169.254.169.254 is forbidden." || !errors.Is(err, ErrSessionOver) {
			t.Errorf("%v", err)
		}
	})
}

// TestEndOfSessionInTheFormOfTheService: a header of 112 bytes, the type padded with NUL (SPEC.md §3.4).
func TestEndOfSessionInTheFormOfTheService(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		v := vectorNamed(t, "channel_closed/HL112")
		f.emit(v.frame(t))
		if _, err := c.Read(make([]byte, 1)); err != io.EOF { //nolint:errorlint // io.Copy compares in the same way
			t.Errorf("%v", err)
		}
	})
}

// TestEndOfSessionWithAHole: a normal end is no end of file when data before it is missing.
func TestEndOfSessionWithAHole(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		m := Message{Type: OutputStreamData, SchemaVersion: 1, Created: time.Now(), SequenceNumber: 3, PayloadType: PayloadOutput, Payload: []byte("late")}
		f.emit(m.Append(nil))
		f.closeSession("")
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("%v", err)
		}
	})
}

// TestBabble: what is no message is ignored.
func TestBabble(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		v := vectorNamed(t, "output_stream_data/Output")
		good := v.frame(t)
		for n := range good {
			f.emit(good[:n])
		}
		damaged := bytes.Clone(good)
		binary.BigEndian.PutUint64(damaged[offsetSequence:], 2)
		damaged[len(damaged)-1] ^= 1
		f.emit(damaged)
		for _, name := range []string{"agent_session_state/Connected", "agent_task_complete", "pause_publication/HL112-empty", "start_publication/HL116-payload"} {
			v := vectorNamed(t, name)
			f.emit(v.frame(t))
		}
		f.service("grease", "{}")
		f.service(Acknowledge, "{}")
		f.service(ChannelClosed+"x", "{}")
		exchange(t, f, c, []byte("up"), []byte("down"))
	})
}

func TestConcurrentCloses(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		done := make(chan error)
		for i := range 8 {
			go func() {
				if i%2 == 0 {
					done <- c.Close()
				} else {
					done <- c.CloseNow()
				}
			}()
		}
		for range 8 {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
		f.with(func() {
			if f.terminated > 1 {
				t.Errorf("terminated %d times", f.terminated)
			}
		})
	})
}

func TestTerminateThatHangsIsBounded(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		g := f.grant()
		g.Terminate = func(ctx context.Context, _ string) error { <-ctx.Done(); return ctx.Err() }
		c, err := Dial(t.Context(), g, f.options())
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		_ = c.CloseNow()
		equal(t, "took", time.Since(start), goodbyeLimit)
	})
}
