package ssmproto

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

// inBubble runs a test in virtual time.
func inBubble(t *testing.T, test func(t *testing.T, f *fake)) {
	synctest.Test(t, func(t *testing.T) { test(t, newFake(t)) })
}

func mustWrite(t testing.TB, w io.Writer, p []byte) {
	t.Helper()
	if n, err := w.Write(p); n != len(p) || err != nil {
		t.Errorf("wrote %d of %d bytes: %v", n, len(p), err)
	}
}

func mustRead(t testing.TB, r io.Reader, want []byte) {
	t.Helper()
	got := make([]byte, len(want))
	n, err := io.ReadFull(r, got)
	if err != nil {
		t.Errorf("read %d of %d bytes: %v", n, len(want), err)
	} else if sha256.Sum256(got) != sha256.Sum256(want) {
		t.Error("what was read is not what was sent")
	}
}

// exchange moves bytes both ways at once and compares them.
func exchange(t testing.TB, f *fake, c *Conn, up, down []byte) {
	t.Helper()
	var both sync.WaitGroup
	both.Go(func() { f.write(down) })
	both.Go(func() { mustWrite(t, c, up) })
	mustRead(t, c, down)
	both.Wait()
	f.await("the upload", func() bool { return len(f.received) >= len(up) })
	f.with(func() {
		if !bytes.Equal(f.received, up) {
			t.Error("what arrived is not what was written")
		}
		f.received = nil
	})
}

func TestBytesArriveBothWays(t *testing.T) {
	f := newFake(t)
	c := f.dial()
	exchange(t, f, c, noise(1, 300_000), noise(2, 300_000))
	if c.SessionType() != SessionPort || c.AgentVersion() != "3.3.987.0" || c.Multiplexed() {
		t.Errorf("%s session of agent %s, multiplexed %v", c.SessionType(), c.AgentVersion(), c.Multiplexed())
	}
	s := c.Stats()
	if s.BytesIn != 300_000 || s.BytesOut != 300_000 || s.State != Open || s.RoundTrip == 0 || s.Resumes != 0 {
		t.Errorf("%+v", s)
	}
}

func TestWriteIsCutIntoMessages(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		mustWrite(t, c, noise(1, 4500))
		mustWrite(t, c, nil)
		f.await("the data", func() bool { return len(f.received) == 4500 })
		mustWrite(t, c, []byte("x"))
		f.await("the data", func() bool { return len(f.received) == 4501 })
		f.with(func() { equal(t, "sizes", f.sizes, "[1024 1024 1024 1024 404 1]") })
	})
}

// TestWritesThatWaitTogetherShareMessages writes while nothing may be sent yet.
func TestWritesThatWaitTogetherShareMessages(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.WaitForPeer = true })
		text := noise(1, 4500)
		for n := range 45 {
			mustWrite(t, c, text[100*n:100*n+100])
		}
		f.await("the data", func() bool { return len(f.received) == len(text) })
		f.with(func() {
			equal(t, "text", string(f.received), string(text))
			equal(t, "sizes", f.sizes, "[1024 1024 1024 1024 404]")
		})
		equal(t, "bytes counted", c.Stats().BytesOut, 4500)
	})
}

func TestLargePayloads(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.MaxPayload = 64 << 10 })
		exchange(t, f, c, noise(1, 1_000_000), noise(2, 1000))
		f.with(func() { equal(t, "first size", f.sizes[0], 64<<10) })
	})
}

// TestLineFeedStaysLineFeed: AWS's own client turns a lone line feed into a carriage return (SPEC.md §3.6).
func TestLineFeedStaysLineFeed(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		exchange(t, f, c, []byte("\n"), []byte("\n"))
	})
}

func TestReadDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		p := make([]byte, 8)
		start := time.Now()
		_ = c.SetReadDeadline(start.Add(3 * time.Second))
		if _, err := c.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		f.write([]byte("late"))
		synctest.Wait()
		if _, err := c.Read(p); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the deadline does not last: %v", err)
		}
		_ = c.SetDeadline(time.Now().Add(-time.Second))
		if _, err := c.Write(p); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write after the deadline: %v", err)
		}
		_ = c.SetDeadline(time.Time{})
		if n, err := c.Read(p); string(p[:n]) != "late" || err != nil {
			t.Errorf("read %q, %v", p[:n], err)
		}
		waiting := make(chan error)
		go func() { _, err := c.Read(p); waiting <- err }()
		synctest.Wait()
		_ = c.SetReadDeadline(time.Now())
		if err := <-waiting; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("a read that waited: %v", err)
		}
	})
}

func TestWriteDeadlineAndFullWindow(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.Window = 20 * smallFrame })
		f.with(func() { f.silent = true })
		_ = c.SetWriteDeadline(time.Now().Add(2 * time.Second))
		n, err := c.Write(noise(1, 100_000))
		if !errors.Is(err, os.ErrDeadlineExceeded) || n != 20*1024 {
			t.Errorf("%d bytes, %v", n, err)
		}
		if got := c.Stats().UnackedBytes; got != n {
			t.Errorf("%d bytes unacknowledged, want %d", got, n)
		}
		f.with(func() { f.silent = false })
		_ = c.SetWriteDeadline(time.Time{})
		mustWrite(t, c, noise(1, 100_000)[n:])
		f.await("all of it", func() bool { return len(f.received) == 100_000 })
		if !bytes.Equal(f.received, noise(1, 100_000)) {
			t.Error("not the same bytes after a write in two parts")
		}
	})
}

func TestPeerIsHeardFirst(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.WaitForPeer = true })
		mustWrite(t, c, []byte("SSH-2.0-client\r\n"))
		time.Sleep(holdLimit / 2)
		synctest.Wait()
		f.with(func() { equal(t, "arrived before the server spoke", len(f.received), 0) })
		f.write([]byte("SSH-2.0-server\r\n"))
		mustRead(t, c, []byte("SSH-2.0-server\r\n"))
		synctest.Wait()
		f.with(func() { equal(t, "arrived afterwards", string(f.received), "SSH-2.0-client\r\n") })
	})
}

func TestHoldingBackEnds(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.WaitForPeer = true })
		mustWrite(t, c, []byte("x"))
		start := time.Now()
		f.await("the data", func() bool { return len(f.received) == 1 })
		equal(t, "held for", time.Since(start), holdLimit)
	})
}

// TestTheAgentIsGivenTimeToSettle: it throws away what comes right behind HandshakeComplete (SPEC.md §4.4).
func TestTheAgentIsGivenTimeToSettle(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		start := time.Now()
		mustWrite(t, c, []byte("x"))
		f.await("the data", func() bool { return len(f.received) == 1 })
		equal(t, "held for", time.Since(start), settleTime)
	})
}

// TestAgentThatIsNotReady leaves the first data unacknowledged while it dials, as the real agent does; later data it keeps (SPEC.md §4.4).
func TestAgentThatIsNotReady(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		start := time.Now()
		f.refuseData = func(seq int64) bool { return seq == 1 && time.Since(start) < 60*time.Millisecond }
		c := f.dial()
		mustWrite(t, c, noise(3, 3000))
		f.await("the data", func() bool { return len(f.received) == 3000 })
		if took := time.Since(start); took > 150*time.Millisecond {
			t.Errorf("it took %v", took)
		}
	})
}

func TestDuplicatesAreAcknowledgedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		f.write([]byte("once"))
		mustRead(t, c, []byte("once"))
		synctest.Wait()
		m := Message{
			Type: OutputStreamData, SchemaVersion: 1, Created: time.Now(), SequenceNumber: 2, ID: NewUUID(), PayloadType: PayloadOutput, Payload: []byte("once"),
		}
		before := 0
		f.with(func() { before = f.acks[2] })
		for range 3 {
			f.emit(m.Append(nil))
		}
		f.write([]byte("twice"))
		mustRead(t, c, []byte("twice"))
		synctest.Wait()
		f.with(func() { equal(t, "acknowledgements", f.acks[2]-before, 3) })
	})
}

func TestSessionWithoutHandshake(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.request = ""
		go func() {
			f.await("the connection", func() bool { return f.ws != nil })
			time.Sleep(time.Second)
			f.write([]byte("$ "))
		}()
		c := f.dial()
		mustRead(t, c, []byte("$ "))
		equal(t, "type", c.SessionType(), SessionStandardStream)
		exchange(t, f, c, []byte("ls\r"), []byte("file\r\n"))
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 1) })
		f.with(func() { equal(t, "messages that are not data", len(f.others), 0) })
	})
}

// TestHandshakeIsAnsweredOnce: a second answer would block the agent for ever (SPEC.md §4.4).
func TestHandshakeIsAnsweredOnce(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.complete = false
		go func() {
			f.await("the answer", func() bool { return len(f.others) == 1 })
			f.send(PayloadHandshakeRequest, []byte(portRequest))
			f.send(PayloadHandshakeComplete, []byte("{}"))
			f.send(PayloadHandshakeRequest, []byte(portRequest))
		}()
		c := f.dial()
		exchange(t, f, c, []byte("up"), []byte("down"))
		f.with(func() { equal(t, "answers", len(f.others), 1) })
	})
}

func TestNoHandshakeAtAll(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.complete = false
		start := time.Now()
		_, err := Dial(t.Context(), f.grant(), f.options())
		if !errors.Is(err, ErrHandshakeTimeout) || time.Since(start) != 15*time.Second {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 1) })
		f.with(func() { equal(t, "handshake responses", f.expected, 1) })
	})
}

func TestDialEndsWithItsContext(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.complete = false
		why := errors.New("the user has gone")
		ctx, cancel := context.WithCancelCause(t.Context())
		time.AfterFunc(time.Second, func() { cancel(why) })
		if _, err := Dial(ctx, f.grant(), f.options()); !errors.Is(err, why) {
			t.Errorf("%v", err)
		}
	})
}

func TestDialEndsWithItsContextWhileConnecting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		defer func() { _ = far.Close() }()
		ctx, cancel := context.WithCancel(t.Context())
		time.AfterFunc(time.Second, cancel)
		o := &Options{}
		o.Dialer = o.resolved().Dialer
		o.Dialer.NetDialContext = func(context.Context, string, string) (net.Conn, error) { return near, nil }
		go func() { _, _ = io.Copy(io.Discard, far) }() // takes the request and never answers
		start := time.Now()
		_, err := Dial(ctx, Grant{SessionID: "s", StreamURL: "ws://fake/x?X-Amz-Signature=secret", Token: NewToken("secret")}, o)
		if err == nil || time.Since(start) != time.Second || strings.Contains(err.Error(), "secret") {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
	})
}

func TestHandshakeThatDemandsEncryption(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.request = `{"AgentVersion":"3.3.0.0","RequestedClientActions":[{"ActionType":"SessionType","ActionParameters":{"SessionType":"Standard_Stream"}},` +
			`{"ActionType":"KMSEncryption","ActionParameters":{"KMSKeyId":"k","Challenge":"AAAA"}}]}`
		if _, err := Dial(t.Context(), f.grant(), f.options()); !errors.Is(err, ErrEncryption) {
			t.Errorf("%v", err)
		}
	})
}

func TestRefusedPort(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		f.send(PayloadFlag, FlagConnectToPortError.Append(nil))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrConnectToPort) {
			t.Errorf("%v", err)
		}
		if _, err := c.Write([]byte("x")); !errors.Is(err, ErrConnectToPort) {
			t.Errorf("%v", err)
		}
	})
}

func TestGrantWithoutSession(t *testing.T) {
	if c, err := Dial(t.Context(), Grant{}, nil); err == nil || c != nil {
		t.Error("connected to nothing")
	}
}

// TestUnreadDataStopsTheNetwork: what nobody reads is bounded, and arrives when somebody does.
func TestUnreadDataStopsTheNetwork(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.ReadBuffer = 32 << 10 })
		data := noise(4, 400_000)
		var sender sync.WaitGroup
		sender.Go(func() { f.write(data) })
		time.Sleep(10 * time.Minute) // longer than any of our patience, for which a stopped reader must not count
		c.mu.Lock()
		held := c.unread.size
		c.mu.Unlock()
		if held < 32<<10 || held > 40<<10 {
			t.Errorf("%d bytes held", held)
		}
		mustRead(t, c, data)
		sender.Wait()
	})
}

// TestUnreadDataDoesNotHoldUpAWrite: the acknowledgements come behind the data, and who is to read that may be waiting for the Write.
func TestUnreadDataDoesNotHoldUpAWrite(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.ReadBuffer = 32 << 10 })
		down, up := noise(4, 400_000), noise(5, 4_000_000)
		var sender sync.WaitGroup
		sender.Go(func() { f.write(down) })
		time.Sleep(time.Minute) // the network is not read any more
		if err := c.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(up); err != nil {
			t.Errorf("a Write while nobody reads: %v", err)
		}
		mustRead(t, c, down)
		sender.Wait()
	})
}

func TestSecretsDoNotPrint(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		var log bytes.Buffer
		c := f.dial(func(o *Options) { o.Logger = newTestLogger(&log) })
		f.cut()
		exchange(t, f, c, []byte("password"), []byte("prompt"))
		_ = c.Close()
		if strings.Contains(log.String(), "token") || strings.Contains(log.String(), "password") || log.Len() == 0 {
			t.Errorf("log: %s", log.String())
		}
	})
}
