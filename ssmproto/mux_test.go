package ssmproto

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/xtaci/smux"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// agentEnd is the agent's side of the byte stream of a multiplexed session.
type agentEnd struct {
	f      *fake
	reader *io.PipeReader
	writer *io.PipeWriter
}

func (a agentEnd) Read(p []byte) (int, error) { return a.reader.Read(p) }

func (a agentEnd) Write(p []byte) (int, error) {
	a.f.write(p)
	return len(p), nil
}

func (a agentEnd) Close() error { return a.reader.Close() }

// muxed gives a fake whose agent hands every stream to serve, and a Mux to it.
func muxed(t *testing.T, serve func(f *fake, stream *smux.Stream)) (*fake, *Mux) {
	t.Helper()
	f := agent(t, muxRequest, serve)
	m, err := NewMux(f.dial())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = m.CloseNow() })
	return f, m
}

// agent gives a fake that requests a handshake and reads its data as smux frames.
func agent(t *testing.T, request string, serve func(f *fake, stream *smux.Stream)) *fake {
	t.Helper()
	f := newFake(t)
	f.request = request
	end := agentEnd{f: f}
	end.reader, end.writer = io.Pipe()
	f.onData = func(p []byte) { _, _ = end.writer.Write(p) }
	config := smux.DefaultConfig()
	config.KeepAliveDisabled = true
	server, err := smux.Server(end, config)
	if err != nil {
		t.Fatal(err)
	}
	var streams sync.WaitGroup
	streams.Go(func() {
		for {
			s, err := server.AcceptStream()
			if err != nil {
				return
			}
			streams.Go(func() { serve(f, s) })
		}
	})
	t.Cleanup(func() {
		_ = server.Close()
		f.shutdown()
		streams.Wait()
	})
	return f
}

// open gives a stream with a limit, so that nobody waits for ever for what has been lost.
func open(t *testing.T, m *Mux) net.Conn {
	t.Helper()
	s, err := m.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	_ = s.SetDeadline(time.Now().Add(testkit.Patience))
	return s
}

func echo(_ *fake, s *smux.Stream) {
	_, _ = io.Copy(s, s)
	_ = s.Close()
}

// TestStreamsShareASession in virtual time: Close has limits.
func TestStreamsShareASession(t *testing.T) {
	inMuxBubble(t, func(t *testing.T) {
		_, m := muxed(t, echo)
		var all sync.WaitGroup
		for i := range 8 {
			s := open(t, m)
			all.Go(func() {
				data := noise(uint64(i), 50_000)
				var writer sync.WaitGroup
				writer.Go(func() { mustWrite(t, s, data) })
				mustRead(t, s, data)
				writer.Wait()
				if err := s.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
		}
		all.Wait()
		if err := m.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		if _, err := m.Open(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("open after close: %v", err)
		}
	})
}

// TestRefusedStream: the agent's flag names no stream, but precedes the end of the one it is about (SPEC.md §7.2).
func TestRefusedStream(t *testing.T) {
	_, m := muxed(t, func(f *fake, s *smux.Stream) {
		f.send(PayloadFlag, FlagConnectToPortError.Append(nil))
		_ = s.Close()
	})
	s := open(t, m)
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, ErrConnectToPort) {
		t.Errorf("%v", err)
	}
	_ = s.Close()
}

// TestAnswersThatComeAtOnce: smux sends the SYN of a stream before it knows the stream.
func TestAnswersThatComeAtOnce(t *testing.T) {
	_, m := muxed(t, func(_ *fake, s *smux.Stream) {
		_, _ = s.Write([]byte("hello"))
		_ = s.Close()
	})
	var openers sync.WaitGroup
	for range 8 { // so that one that has sent its SYN waits for a processor
		openers.Go(func() {
			for range 100 {
				s, err := m.Open(t.Context())
				if err != nil {
					t.Error(err)
					return
				}
				_ = s.SetReadDeadline(time.Now().Add(time.Minute))
				got, err := io.ReadAll(s)
				_ = s.Close()
				if string(got) != "hello" || err != nil {
					t.Errorf("%q, %v", got, err)
					return
				}
			}
		})
	}
	openers.Wait()
}

func TestStreamThatEndsNormally(t *testing.T) {
	_, m := muxed(t, func(_ *fake, s *smux.Stream) {
		_, _ = s.Write([]byte("goodbye"))
		_ = s.Close()
	})
	s := open(t, m)
	if got, err := io.ReadAll(s); string(got) != "goodbye" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_ = s.Close()
}

// TestHalfCloseKeepsTheAnswer: an end of stream at once would cost what the other side still says (SPEC.md §7.2).
func TestHalfCloseKeepsTheAnswer(t *testing.T) {
	_, m := muxed(t, func(_ *fake, s *smux.Stream) {
		question := make([]byte, 8)
		if _, err := io.ReadFull(s, question); err != nil {
			return
		}
		_, _ = s.Write(bytes.ToUpper(question))
		_ = s.Close()
	})
	s := open(t, m)
	mustWrite(t, s, []byte("question"))
	half, ok := s.(interface{ CloseWrite() error })
	if !ok {
		t.Fatal("no CloseWrite")
	}
	if err := half.CloseWrite(); err != nil {
		t.Error(err)
	}
	if _, err := s.Write([]byte("more")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	if got, err := io.ReadAll(s); string(got) != "QUESTION" || err != nil {
		t.Errorf("%q, %v", got, err)
	}
	_ = s.Close()
}

func TestMultiplexedSessionIsNoPlainConn(t *testing.T) {
	f := newFake(t)
	f.request = muxRequest
	c := f.dial()
	if _, err := c.Write([]byte("x")); !errors.Is(err, ErrMultiplexed) {
		t.Errorf("write: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrMultiplexed) {
		t.Errorf("read: %v", err)
	}
}

func TestDialPortOfEitherKind(t *testing.T) {
	for name, request := range map[string]string{"plain": portRequest, "multiplexed": muxRequest} {
		t.Run(name, func(t *testing.T) {
			inMuxBubble(t, func(t *testing.T) { // whose clock does not run while the agent is slow to agree with the end
				f := agent(t, request, echo)
				if request == portRequest {
					f.onData = f.write
				}
				c, err := DialPort(t.Context(), f.grant(), f.options())
				if err != nil {
					t.Fatal(err)
				}
				mustWrite(t, c, []byte("hello"))
				mustRead(t, c, []byte("hello"))
				if err := c.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
				f.with(func() { equal(t, "TerminateSession calls", f.terminated, 0) })
			})
		})
	}
}

func TestStreamDeadline(t *testing.T) {
	_, m := muxed(t, echo)
	s := open(t, m)
	_ = s.SetReadDeadline(time.Now().Add(-time.Second))
	if _, err := s.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("%v", err)
	}
	_ = s.Close()
}

func TestStreamsLearnWhyTheSessionEnded(t *testing.T) {
	f, m := muxed(t, echo)
	s := open(t, m)
	mustWrite(t, s, []byte("x"))
	mustRead(t, s, []byte("x"))
	f.closeSession("idle for too long")
	_, err := s.Read(make([]byte, 1))
	var ended *SessionEndedError
	if !errors.As(err, &ended) || ended.Output != "idle for too long" {
		t.Errorf("%v", err)
	}
	_ = s.Close()
}

func TestMuxNeedsAMultiplexedSession(t *testing.T) {
	f := newFake(t)
	if _, err := NewMux(f.dial()); !errors.Is(err, ErrNotMultiplexed) {
		t.Errorf("%v", err)
	}
}

func TestOpenWithAnEndedContext(t *testing.T) {
	_, m := muxed(t, echo)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := m.Open(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}
