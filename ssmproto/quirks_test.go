package ssmproto

import (
	"bytes"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/xtaci/smux"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// TestQuirks is the list of what is known to go wrong with AWS's own programs and service, each with the test that keeps it from going wrong here.
func TestQuirks(t *testing.T) {
	for _, quirk := range []struct {
		name string
		test func(*testing.T)
	}{
		{"the service closes connections that send more than 1000 messages a second", TestPace},
		{"keystrokes wait behind bulk data", TestKeystrokeBesideBulk},
		{"a stream that nobody reads ends the session", TestUnreadStreamIsNoDeadSession},
		{"a destination that does not answer holds up the others", TestStreamBesideOneThatDoesNotConnect},
		{"every connection needs a session", TestStreamsShareASession},
		{"agents know version 1 of smux only", TestStreamsAreOfVersion1},
		{"every write is a message, and a paste takes seconds", TestWritesThatWaitTogetherShareMessages},
		{"only the oldest message is repeated", TestAllDueMessagesAreRepeated},
		{"the oldest unacknowledged message is thrown away", TestWriteDeadlineAndFullWindow},
		{"duplicates are not acknowledged again", TestDuplicatesAreAcknowledgedAgain},
		{"messages out of turn pile up", TestBytesSurviveEverything},
		{"an acknowledgement comes before the bookkeeping", TestAckDuringWrite},
		{"the first data after the handshake is refused", TestAgentThatIsNotReady},
		{"the handshake is answered twice", TestHandshakeIsAnsweredOnce},
		{"LF becomes CR", TestLineFeedStaysLineFeed},
		{"a half-close loses the answer", TestHalfCloseKeepsTheAnswer},
		{"TerminateSession loses the tail", TestCloseDeliversTheTail},
		{"the end of input leaves the session open", TestCloseOfAnAgentThatDoesNotAnswer},
		{"text gets into the stream", TestCustomerMessageStaysOutOfTheStream},
		{"the connection hangs after a network change", TestSilentServiceIsLost},
		{"a dead instance is not noticed", TestDeadInstance},
		{"the service says Bye every hour", TestDay},
		{"smux keepalives keep idle sessions alive", TestNoKeepalives},
		{"a pause never ends", TestPause},
		{"a pause comes before both sides are there", TestPauseDuringTheHandshake},
		{"channel_closed comes with a header of 112 bytes", TestEndOfSessionInTheFormOfTheService},
		{"unreadable and unknown messages", TestBabble},
		{"every end looks like success", TestEndOfSessionWithText},
		{"a refused port looks like silence", TestRefusedPort},
		{"a refused stream is not named", TestRefusedStream},
		{"the exit code is lost", TestCommandWithSeparateOutput},
	} {
		t.Run(strings.ReplaceAll(quirk.name, " ", "-"), quirk.test)
	}
}

// TestCustomerMessageStaysOutOfTheStream: what HandshakeComplete wants to tell the user goes to the log.
func TestCustomerMessageStaysOutOfTheStream(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		var log bytes.Buffer
		f.complete = false
		f.onOther = func(Message) {
			f.send(PayloadHandshakeComplete, []byte(`{"HandshakeTimeToComplete":1,"CustomerMessage":"Please update."}`))
			f.write([]byte("SSH-2.0-x\r\n"))
		}
		c := f.dial(func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		mustRead(t, c, []byte("SSH-2.0-x\r\n"))
		_ = c.Close()
		if !strings.Contains(log.String(), "Please update.") {
			t.Errorf("the log: %s", &log)
		}
	})
}

// TestNoKeepalives: with an agent that agrees, a multiplexed session in which nothing happens sends nothing that would count as activity.
func TestNoKeepalives(t *testing.T) {
	if !versionAfter(DefaultClientVersion, "1.2.331.0") {
		t.Error("agents leave keepalives out for clients after 1.2.331.0 only")
	}
	inMuxBubble(t, func(t *testing.T) {
		f, m := muxed(t, echo)
		time.Sleep(time.Hour)
		f.with(func() { equal(t, "messages in an idle hour", len(f.sizes), 0) })
		_ = m.CloseNow()
	})
}

// TestPauseDuringTheHandshake: the service pauses a client whose agent has asked and is gone again for a moment.
func TestPauseDuringTheHandshake(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		pause := Message{Type: PausePublication, SchemaVersion: 1, Created: time.Now(), ID: NewUUID(), Payload: []byte("0")}
		asked := false
		f.relay = func(toAgent bool, frame []byte) [][]byte {
			if toAgent || asked {
				return [][]byte{frame}
			}
			asked = true
			return [][]byte{pause.Append(nil), frame, pause.Append(nil)}
		}
		time.AfterFunc(3*time.Second, func() { f.service(StartPublication, "0") })
		c := f.dial()
		exchange(t, f, c, []byte("up"), []byte("down"))
		equal(t, "resumes", c.Stats().Resumes, 0)
		f.with(func() { equal(t, "answers to the handshake", len(f.others), 1) })
	})
}

// TestUnreadStreamIsNoDeadSession: the streams of a session share the room of 4 MiB for what has not been read (SPEC.md §7.2), so one that nobody reads holds
// up what comes for the others. The session lives for as long as that takes, and nothing is lost when somebody reads again.
func TestUnreadStreamIsNoDeadSession(t *testing.T) {
	inMuxBubble(t, func(t *testing.T) {
		bulk := noise(6, 6<<20)
		_, m := muxed(t, func(_ *fake, s *smux.Stream) {
			defer func() { _ = s.Close() }()
			question := make([]byte, 1)
			if _, err := io.ReadFull(s, question); err != nil {
				return
			}
			if question[0] == 'b' {
				_, _ = s.Write(bulk)
				return
			}
			time.Sleep(time.Minute)
			_, _ = s.Write([]byte("answer"))
		})
		unread, other := open(t, m), open(t, m)
		_, _ = unread.SetDeadline(time.Time{}), other.SetWriteDeadline(time.Time{})
		mustWrite(t, other, []byte("a"))
		mustWrite(t, unread, []byte("b"))
		_ = other.SetReadDeadline(time.Now().Add(10 * time.Minute)) // longer than any of our patience
		if n, err := other.Read(make([]byte, 6)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%d bytes (%v) came past 6 MiB that nobody has read", n, err)
		}
		_ = other.SetReadDeadline(time.Time{})
		mustRead(t, unread, bulk)
		mustRead(t, other, []byte("answer"))
		_, _ = unread.Close(), other.Close()
		_ = m.CloseNow()
	})
}

// TestStreamBesideOneThatDoesNotConnect: an agent takes the next stream when it has connected the one before (SPEC.md §7.2). Those that are connected go on, Open
// does not wait, and a deadline of the stream's own ends the waiting for it.
func TestStreamBesideOneThatDoesNotConnect(t *testing.T) {
	inMuxBubble(t, func(t *testing.T) {
		first := make(chan struct{}, 1)
		first <- struct{}{}
		_, m := muxed(t, func(f *fake, s *smux.Stream) {
			select {
			case <-first:
				echo(f, s)
			case <-f.stop: // what an agent does while it connects
				_ = s.Close()
			}
		})
		connected := open(t, m)
		mustWrite(t, connected, []byte("x"))
		mustRead(t, connected, []byte("x"))
		hangs := open(t, m)
		mustWrite(t, hangs, []byte("is anybody there?"))
		_ = hangs.SetReadDeadline(time.Now().Add(10 * time.Second))
		if _, err := hangs.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
		mustWrite(t, connected, []byte("y"))
		mustRead(t, connected, []byte("y"))
		_, _ = connected.Close(), hangs.Close()
		_ = m.CloseNow()
	})
}

// TestStreamsAreOfVersion1: what begins with anything but 1, the agent takes for garbage, and ends the session.
func TestStreamsAreOfVersion1(t *testing.T) {
	f, beginning := newFake(t), make(chan byte, 1)
	f.request = muxRequest
	f.onData = func(p []byte) {
		select {
		case beginning <- p[0]:
		default:
		}
	}
	m, err := NewMux(f.dial())
	if err != nil {
		t.Fatal(err)
	}
	_ = open(t, m)
	equal(t, "version", testkit.Receive(t, beginning, "a frame of smux"), byte(1))
	_ = m.CloseNow()
}
