package ssmproto

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestQuirks is the list of what is known to go wrong with AWS's own programs and service, each with the test that keeps it from going wrong here.
func TestQuirks(t *testing.T) {
	for _, quirk := range []struct {
		name string
		test func(*testing.T)
	}{
		{"the service closes connections that send more than 1000 messages a second", TestPace},
		{"keystrokes wait behind bulk data", TestKeystrokeBesideBulk},
		{"only the oldest message is repeated", TestAllDueMessagesAreRepeated},
		{"the oldest unacknowledged message is thrown away", TestWriteDeadlineAndFullWindow},
		{"duplicates are not acknowledged again", TestDuplicatesAreAcknowledgedAgain},
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
	emptyPools()
	synctest.Test(t, func(t *testing.T) {
		f, m := muxed(t, echo)
		time.Sleep(time.Hour)
		f.with(func() { equal(t, "messages in an idle hour", len(f.sizes), 0) })
		_ = m.CloseNow()
	})
}
