package ssmproto

import (
	"errors"
	"fmt"
	"time"
)

const (
	// serviceBurst is how many messages may go at once after a pause; with the default rate this stays below the service's limit (SPEC.md §4.6).
	serviceBurst = 100
	// maxBatch is how many messages are written before the state is looked at again.
	maxBatch = 32
	// restLimit is how much later than it could a message may go, so that others go with it. A keystroke behind bulk waits that long, too. It has to be less
	// than maxUnsent messages take, or bulk would run dry.
	restLimit = 8 * time.Millisecond
	// pauseLimit is how long a pause_publication may last in silence before a new connection is tried (SPEC.md §4.5).
	pauseLimit = 15 * time.Second
)

var errPaused = errors.New("ssmproto: the service has paused the session for too long")

const (
	// longestNap is a rest that the end of the session does not have to interrupt.
	longestNap = 2 * restLimit
	// napKept is how long the writer keeps the timer of its naps when it has nothing to do.
	napKept = time.Second
)

// outgoing is one message for the socket: a frame, or an acknowledgement still to be encoded.
type outgoing struct {
	frame *frame
	ack   Ack
}

// writeLoop is the goroutine that writes: acknowledgements first, then repeats, then new data, then pings, at the permitted rate. It lives
// as long as the session and has the only timers: one that news interrupt, and one for rests.
func (c *Conn) writeLoop() {
	defer c.goroutines.Done()
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	batch := make([]outgoing, 0, maxBatch)
	var rest nap
	defer rest.close()
	for {
		var wait time.Duration
		var err error
		c.mu.Lock()
		c.resting = false
		s := c.socket
		batch, wait = c.plan(batch[:0], time.Now())
		ping := s != nil && c.pingDue(time.Now())
		resting := c.resting
		c.mu.Unlock()
		if s != nil && len(batch) > 0 {
			err = s.write(batch)
			c.wrote(batch)
		}
		if ping && err == nil {
			err = s.ping()
		}
		if err != nil {
			c.drop(s, fmt.Errorf("ssmproto: write to the service: %w", err))
		}
		if len(batch) > 0 {
			continue
		}
		if resting && s.kernel && wait <= longestNap {
			rest.sleep(wait)
			continue
		}
		if wait > napKept {
			rest.close()
		}
		timer.Reset(wait)
		select {
		case <-c.ctx.Done():
			return
		case <-c.kick:
		case <-timer.C:
		}
	}
}

// plan fills batch with what may be sent now, and says when to look again if that is nothing. The caller holds mu.
func (c *Conn) plan(batch []outgoing, now time.Time) ([]outgoing, time.Duration) {
	if c.socket == nil || c.patienceEnds(now) {
		return batch, time.Hour // the next connection wakes the writer
	}
	if f := c.question(now); f != nil {
		c.counts.messagesOut++
		batch = append(batch, outgoing{frame: f})
	}
	if f := c.nextProbe(now); f != nil {
		c.counts.messagesOut++
		c.pace.spend(now)
		batch = append(batch, outgoing{frame: f})
	}
	for len(batch) < maxBatch {
		f := c.nextFrame(now)
		if f == nil && c.acks.empty() {
			break
		}
		if c.pace.wait(now) > 0 {
			return batch, c.rest(now)
		}
		c.pace.spend(now)
		c.counts.messagesOut++
		if !c.acks.empty() {
			batch = append(batch, outgoing{ack: c.acks.pop()})
			continue
		}
		waited := c.send.full()
		c.send.sent(f, now)
		if waited && !c.send.full() {
			c.progress.Broadcast()
		}
		batch = append(batch, outgoing{frame: f})
	}
	return batch, c.nextEvent(now)
}

// rest is how long to wait when the rate allows nothing more: until all that waits may go at once, restLimit at most, because to be woken for each message
// costs more than the message. One that waits alone goes as soon as it may. The caller holds mu.
func (c *Conn) rest(now time.Time) time.Duration {
	c.resting = true
	waiting := c.acks.len() + c.send.waiting()
	return c.pace.wait(now) + min(time.Duration(max(waiting-1, 0))*c.pace.each, restLimit)
}

// nextFrame gives the sequenced message that may be sent now. While the service pauses, none may (SPEC.md §4.5).
func (c *Conn) nextFrame(now time.Time) *frame {
	if !c.paused.IsZero() {
		return nil
	}
	if f := c.send.lost(now); f != nil && !c.stalled {
		return f
	}
	f := c.send.fresh()
	if f != nil && f.kind == PayloadOutput && now.Before(c.holdTill) {
		return nil
	}
	return f
}

// patienceEnds ends what has lasted too long: a pause by a new connection, an agent that acknowledges nothing by the end of the session.
func (c *Conn) patienceEnds(now time.Time) bool {
	if !c.paused.IsZero() && now.Sub(c.paused) >= pauseLimit {
		c.dropLocked(c.socket, errPaused)
		return true
	}
	if c.stalled {
		c.send.progress = now // acknowledgements may be waiting behind what our reader does not take
		c.vigil.hear(now)
	}
	if !c.send.empty() && now.Sub(c.send.progress) >= c.options.PeerTimeout || c.vigil.over(now, c.options.PeerTimeout) {
		c.fail(ErrPeerSilent)
		return true
	}
	return false
}

// nextEvent is how long until something has to be done without being told.
func (c *Conn) nextEvent(now time.Time) time.Duration {
	next := c.pingAt.Sub(now)
	if !c.paused.IsZero() {
		return min(next, c.paused.Add(pauseLimit).Sub(now))
	}
	if due, ok := c.send.due(); ok && !c.stalled {
		next = min(next, due.Sub(now))
	}
	if !c.send.empty() {
		next = min(next, c.send.progress.Add(c.options.PeerTimeout).Sub(now))
	}
	if at, ok := c.vigil.next(c.options.PeerCheck, c.options.PeerTimeout); ok {
		next = min(next, at.Sub(now))
	}
	if !c.discovery.due.IsZero() && c.state == Open {
		next = min(next, c.discovery.due.Sub(now))
	}
	if f := c.send.fresh(); f != nil && c.holdTill.After(now) {
		next = min(next, c.holdTill.Sub(now))
	}
	return max(next, 0)
}

// pingDue says whether a ping has to be sent now, and plans the next one.
func (c *Conn) pingDue(now time.Time) bool {
	if now.Before(c.pingAt) {
		return false
	}
	c.pingAt = now.Add(c.options.PingInterval)
	return true
}

// wrote gives the frames of batch back to the window.
func (c *Conn) wrote(batch []outgoing) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range batch {
		if f := batch[i].frame; f != nil {
			c.send.written(f)
		}
		batch[i] = outgoing{}
	}
}

// drop gives up connection s, unless another has taken its place.
func (c *Conn) drop(s *socket, cause error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dropLocked(s, cause)
}

// dropLocked closes s, which makes the reader resume the session. The caller holds mu.
func (c *Conn) dropLocked(s *socket, cause error) {
	if s == nil || c.socket != s {
		return
	}
	c.log.Debug("giving up the connection", "cause", cause)
	c.detach()
	s.close()
}
