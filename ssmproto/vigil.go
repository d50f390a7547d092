package ssmproto

import "time"

// askAgain is how long after a question to the agent the next one follows.
const askAgain = 5 * time.Second

// vigil notices an agent that is gone while nothing waits for its acknowledgement. The question is the first message of the session once more: an
// agent acknowledges what it has had before, and does nothing else with it (SPEC.md §4.4). It has no clock, lock or goroutine.
type vigil struct {
	first *frame    // a copy of the session's first message
	heard time.Time // when the agent was last heard, not counting outages of the connection
	asked time.Time // the first question since; zero when there was none
	again time.Time // when the next question is due
}

// keep remembers the first message.
func (v *vigil) keep(f *frame) {
	if v.first == nil {
		v.first = &frame{buf: append([]byte(nil), f.buf...), seq: f.seq, kind: f.kind}
	}
}

// hear notes a message of the agent.
func (v *vigil) hear(now time.Time) { v.heard, v.asked = now, time.Time{} }

// skip leaves an outage of the connection out of the account.
func (v *vigil) skip(outage time.Duration) {
	v.heard = v.heard.Add(outage)
	if !v.asked.IsZero() {
		v.asked = v.asked.Add(outage)
	}
}

// over says that the agent has left questions unanswered for too long.
func (v *vigil) over(now time.Time, limit time.Duration) bool {
	return !v.asked.IsZero() && now.Sub(v.asked) >= limit
}

// next says when something has to be done.
func (v *vigil) next(check, limit time.Duration) (time.Time, bool) {
	switch {
	case check <= 0 || v.first == nil:
		return time.Time{}, false
	case v.asked.IsZero():
		return later(v.heard.Add(check), v.again), true
	case v.asked.Add(limit).Before(v.again):
		return v.asked.Add(limit), true
	default:
		return v.again, true
	}
}

func later(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// question gives the message to send when the agent has been silent for Options.PeerCheck and owes no acknowledgement. The caller holds mu.
func (c *Conn) question(now time.Time) *frame {
	v := &c.vigil
	at, ok := v.next(c.options.PeerCheck, c.options.PeerTimeout)
	if !ok || now.Before(at) {
		return nil
	}
	v.again = now.Add(min(askAgain, c.options.PeerCheck))
	if c.state != Open || !c.paused.IsZero() || !c.send.empty() {
		return nil // what the window holds has a timer of its own
	}
	if v.asked.IsZero() {
		v.asked = now
	}
	c.pace.spend(now)
	return v.first
}
