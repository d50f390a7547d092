package ssmproto

import (
	"errors"
	"fmt"
	"io"
	"time"
)

const (
	// settleTime is how long after HandshakeComplete the first data is sent: the agent announces the end of the handshake a little before it
	// takes data, and throws away what comes in between (SPEC.md §4.4).
	settleTime = 10 * time.Millisecond
	// holdLimit is how long Options.WaitForPeer waits.
	holdLimit = 2 * time.Second
)

// readFrames handles everything that arrives on s until it is lost. It says whether anything was heard.
func (c *Conn) readFrames(s *socket) (heard bool, err error) {
	s.in.idle = c.settle
	defer func() { c.settle(time.Now()) }()
	defer s.in.nap.close()
	for {
		f, err := s.read()
		if err != nil {
			return heard, fmt.Errorf("ssmproto: read from the service: %w", err)
		}
		heard = true
		c.take(f)
		if !c.awaitReader() {
			return heard, errors.New("ssmproto: the session is closed")
		}
	}
}

// awaitReader waits while too much is unread. Not reading the socket is the only way to slow the agent down (SPEC.md §4.3).
func (c *Conn) awaitReader() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.state != Closed && !c.abandon && c.overfull() {
		c.stalled = true
		c.tellNews()
		c.progress.Wait()
	}
	if c.stalled {
		c.stalled = false
		c.wake()
	}
	return c.state != Closed
}

// take handles one frame and releases it, unless it has to wait for its turn or its reader. What cannot be read is ignored: a message that matters
// comes again.
func (c *Conn) take(f *frame) {
	m, err := Parse(f.buf)
	var ack Ack
	if err == nil && m.Type == Acknowledge {
		ack, err = ParseAck(m.Payload)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counts.messagesIn++
	kept := false
	switch {
	case err != nil:
		c.log.Debug("ignoring a message", "cause", err)
	case m.Type == Acknowledge:
		c.vigil.hear(time.Now())
		c.resumePublication()
		c.acknowledged(ack)
	case m.Type == OutputStreamData:
		c.vigil.hear(time.Now())
		c.resumePublication()
		kept = c.sequenced(&m, f)
	case m.Type == StartPublication:
		c.resumePublication()
	case m.Type == PausePublication:
		c.pausePublication()
	case m.Type == ChannelClosed:
		c.closedByService(m.Payload)
	}
	if !kept {
		f.release()
	}
}

// acknowledged takes the acknowledgement of one of our messages. The caller holds mu.
func (c *Conn) acknowledged(a Ack) {
	if a.Type != InputStreamData || c.probeAcknowledged(a) || !c.send.ack(a.SequenceNumber, time.Now()) {
		return
	}
	c.news.room = c.news.room || !c.send.full()
	c.news.work = c.news.work || c.send.gap()
}

// sequenced puts a message of the agent in order, and handles all that are then in order. It says whether f is kept. The caller holds mu.
func (c *Conn) sequenced(m *Message, f *frame) bool {
	f.seq, f.kind, f.rest = m.SequenceNumber, m.PayloadType, m.Payload
	verdict := c.recv.offer(f)
	if verdict == refused {
		return false
	}
	if c.acks.push(Ack{Type: OutputStreamData, ID: m.ID, SequenceNumber: m.SequenceNumber}) {
		c.news.work = true
	}
	if verdict == duplicate {
		return false
	}
	for next := c.recv.pop(); next != nil; next = c.recv.pop() {
		if !c.dispatch(next) {
			next.release()
		}
	}
	return true
}

// dispatch handles a message whose turn it is. It says whether f is kept. The caller holds mu.
func (c *Conn) dispatch(f *frame) bool {
	switch f.kind {
	case PayloadHandshakeRequest:
		c.greet(f.rest)
	case PayloadEncChallengeRequest:
		c.meetChallenge(f.rest)
	case PayloadHandshakeComplete:
		if h, err := ParseHandshakeComplete(f.rest); err == nil && h.CustomerMessage != "" {
			c.log.Info("message of the instance", "text", h.CustomerMessage)
			c.peer.message = h.CustomerMessage
		}
		c.opened()
	case PayloadOutput:
		return c.decrypt(f) && c.output(f)
	case PayloadStdErr:
		if !c.decrypt(f) {
			return false
		}
		if c.keepErr && !c.abandon && len(f.rest) > 0 {
			c.opened()
			c.stderr.push(f)
			c.news.data = true
			return true
		}
	case PayloadExitCode:
		if !c.decrypt(f) {
			return false
		}
		if code, err := ParseExitCode(f.rest); err == nil {
			c.exitCode = &code
		}
	case PayloadFlag:
		if flag, err := ParseFlag(f.rest); err == nil && flag == FlagConnectToPortError {
			c.connectionRefused()
		}
	}
	return false
}

// opened ends the handshake. The caller holds mu.
func (c *Conn) opened() {
	if c.refused != nil {
		c.fail(c.refused)
		return
	}
	if !c.enter(Open) {
		return
	}
	c.wasOpen = true
	hold := time.Duration(0)
	switch {
	case c.peer.sessionType == "":
		c.peer.sessionType = SessionStandardStream
	case c.options.WaitForPeer && !c.muxed:
		hold = holdLimit
	case c.peer.sessionType == SessionPort:
		hold = settleTime
	}
	c.holdTill = time.Now().Add(hold)
}

// output queues data for Read. Output without a handshake begins a shell session (SPEC.md §5.1). The caller holds mu.
func (c *Conn) output(f *frame) bool {
	if c.state == Handshaking {
		c.opened()
	}
	if !c.holdTill.IsZero() && c.options.WaitForPeer {
		c.holdTill = time.Time{}
		c.wake()
	}
	if c.abandon || len(f.rest) == 0 {
		return false
	}
	c.counts.bytesIn += int64(len(f.rest))
	c.bulk.heard(len(f.rest))
	c.unread.push(f)
	c.news.data = true
	return true
}

// connectionRefused handles the flag by which the agent says that it could not connect. It does not say for which stream. The caller holds mu.
func (c *Conn) connectionRefused() {
	if c.muxed {
		c.flagged++
		return
	}
	c.fail(ErrConnectToPort)
}

// pausePublication stops data, not acknowledgements (SPEC.md §4.5). The caller holds mu.
func (c *Conn) pausePublication() {
	if c.paused.IsZero() {
		c.paused = time.Now()
		c.wake()
	}
}

// resumePublication lets data flow again. The caller holds mu.
func (c *Conn) resumePublication() {
	if !c.paused.IsZero() {
		c.paused = time.Time{}
		c.wake()
	}
}

// closedByService ends the session (SPEC.md §9.1). A text that cannot be read does not keep it open. The caller holds mu.
func (c *Conn) closedByService(payload []byte) {
	closed, err := ParseChannelClosed(payload)
	if err != nil {
		c.log.Debug("reading channel_closed", "cause", err)
	}
	c.ended = true
	if closed.Output == "" && c.recv.bytes > 0 {
		c.fail(fmt.Errorf("ssmproto: session ended with data missing: %w", io.ErrUnexpectedEOF))
		return
	}
	c.endedWell = closed.Output == "" && c.state != Closed
	c.fail(&SessionEndedError{SessionID: c.grant.SessionID, Output: closed.Output})
}
