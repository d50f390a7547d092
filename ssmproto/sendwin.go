package ssmproto

import "time"

const (
	// leastWindow is how many messages may be under way however short the round trip is.
	leastWindow = 64
	// maxUnsent is how many messages may wait for their turn at the permitted rate: 15 ms of them. All that wait here make a keystroke wait that is written
	// behind them, and the writer can be woken in less.
	maxUnsent = 14
)

// sendWindow keeps every sequenced message from its queueing to its acknowledgement (SPEC.md §4). It has no clock, lock or goroutine.
//
//	acknowledged │ sent, not acknowledged │ waiting to be sent for the first time │ not there yet
//	            base                    unsent                                   next
//
// Acknowledgements are selective, so the part between base and unsent may have holes. A frame is recorded as sent before it is written, because
// its acknowledgement may arrive before the writer returns (SPEC.md §4.3).
type sendWindow struct {
	limitBytes int // of memory, for all that is not acknowledged
	rate       int // messages per second that the service lets through; 0 is no limit

	ring               []*frame // by seq & (len-1); nil where acknowledged
	base, unsent, next int64
	bytes              int // memory of the frames held
	payload            int // bytes of payload in them

	oldest, newest *frame // the sent ones, by the time they were last sent
	rtt            roundTrip

	overtaken    time.Time // the latest sending that was acknowledged: what was sent before it should have been, too
	resendBefore time.Time // what was last sent before has gone down with its connection
	backedOff    time.Time // when the wait was last doubled
	progress     time.Time // when something was last acknowledged, or the window was last empty
	resends      int64
}

// full says that a writer must wait. Three rules: a bound in memory; few that wait to be sent, since all beyond that only makes a keystroke wait behind
// bulk; and besides these no more than twice what the path holds at the permitted rate, and what both sides let come together (SPEC.md §4.6).
func (w *sendWindow) full() bool {
	held := w.next - w.base
	switch {
	case w.bytes >= w.limitBytes && held > 0:
		return true
	case w.rate <= 0:
		return false
	case w.next-w.unsent >= maxUnsent:
		return true
	}
	path := 2*w.rtt.shortest + longGather + restLimit
	return held >= max(leastWindow, maxUnsent+int64(w.rate)*int64(path)/int64(time.Second))
}

// waiting is how many messages have not been sent yet.
func (w *sendWindow) waiting() int { return int(w.next - w.unsent) }

// empty says that everything is acknowledged.
func (w *sendWindow) empty() bool { return w.base == w.next }

// push queues f, which must carry the number w.next.
func (w *sendWindow) push(f *frame, now time.Time) {
	if w.empty() {
		w.progress = now
	}
	if held := int(w.next - w.base); held == len(w.ring) {
		w.grow()
	}
	w.ring[w.slot(w.next)] = f
	w.next++
	w.bytes += cap(f.buf)
	w.payload += len(f.buf) - Overhead
}

// join adds what it can of p to the last message, if that has not been sent and has room, and says how much. A message has no more than most bytes of
// payload, nor than its memory.
func (w *sendWindow) join(p []byte, most int) int {
	if w.unsent == w.next {
		return 0
	}
	f := w.ring[w.slot(w.next-1)]
	if f.kind != PayloadOutput || f.sealed {
		return 0
	}
	n := max(0, min(len(p), most+Overhead-len(f.buf), cap(f.buf)-len(f.buf))) // most may have become less
	f.buf = append(f.buf, p[:n]...)
	w.payload += n
	return n
}

func (w *sendWindow) slot(seq int64) int64 { return seq & int64(len(w.ring)-1) }

func (w *sendWindow) grow() {
	old := *w
	w.ring = make([]*frame, max(8, 2*len(old.ring)))
	for seq := old.base; seq < old.next; seq++ {
		w.ring[w.slot(seq)] = old.ring[old.slot(seq)]
	}
}

// lost gives the frame that has to be sent again, if one has. It stays in the window; the caller follows with sent.
func (w *sendWindow) lost(now time.Time) *frame {
	f := w.oldest
	if f == nil || f.busy || now.Before(w.dueAt(f)) {
		return nil
	}
	return f
}

// fresh gives the next frame to be sent for the first time, if there is one. The caller follows with sent.
func (w *sendWindow) fresh() *frame {
	if w.unsent == w.next {
		return nil
	}
	return w.ring[w.slot(w.unsent)]
}

// due says when lost will next have something, in the absence of acknowledgements.
func (w *sendWindow) due() (time.Time, bool) {
	if w.oldest == nil || w.oldest.busy {
		return time.Time{}, false
	}
	return w.dueAt(w.oldest), true
}

// gap says that a message was acknowledged which was sent after one that is not: lost may have something earlier than due said before.
func (w *sendWindow) gap() bool { return w.oldest != nil && w.oldest.sentAt.Before(w.overtaken) }

// dueAt is when f has to be sent again: at once if its connection is gone, soon if a message sent after it was acknowledged (as in RFC 8985),
// else after the timeout.
func (w *sendWindow) dueAt(f *frame) time.Time {
	if f.sentAt.Before(w.resendBefore) {
		return f.sentAt
	}
	due := f.sentAt.Add(w.rtt.timeout())
	if f.sentAt.Before(w.overtaken) {
		if early := f.sentAt.Add(w.rtt.reordering()); early.Before(due) {
			return early
		}
	}
	return due
}

// sent records that f, which came from lost or fresh, is about to be written.
func (w *sendWindow) sent(f *frame, now time.Time) {
	if f.sends == 0 {
		w.unsent++
	} else {
		if timedOut := now.Sub(f.sentAt) >= w.rtt.timeout(); timedOut && !f.sentAt.Before(w.resendBefore) && !f.sentAt.Before(w.backedOff) {
			w.rtt.backOff()
			w.backedOff = now
		}
		w.unlink(f)
		w.resends++
	}
	f.sends++
	f.sentAt = now
	f.busy = true
	f.older = w.newest
	if w.newest == nil {
		w.oldest = f
	} else {
		w.newest.newer = f
	}
	w.newest = f
}

// written records that the writer is done with f. It releases f if it was acknowledged meanwhile.
func (w *sendWindow) written(f *frame) {
	f.busy = false
	if f.acked {
		f.release()
	}
}

// ack takes in the acknowledgement of one message. It returns false when there is no such message under way, which happens with every repeat.
func (w *sendWindow) ack(seq int64, now time.Time) bool {
	if seq < w.base || seq >= w.unsent {
		return false
	}
	f := w.ring[w.slot(seq)]
	if f == nil {
		return false
	}
	if f.sends == 1 {
		w.rtt.sample(now.Sub(f.sentAt), now)
		if f.sentAt.After(w.overtaken) {
			w.overtaken = f.sentAt
		}
	}
	if f.kind == PayloadOutput && seq == w.base {
		w.rtt.settled = true // not before the oldest: an agent that is not ready keeps what follows (SPEC.md §4.4)
	}
	w.progress = now
	w.remove(f)
	return true
}

// remove takes f out of the window and releases it, unless the writer still needs it.
func (w *sendWindow) remove(f *frame) {
	w.unlink(f)
	w.ring[w.slot(f.seq)] = nil
	w.bytes -= cap(f.buf)
	w.payload -= len(f.buf) - Overhead
	for w.base < w.unsent && w.ring[w.slot(w.base)] == nil {
		w.base++
	}
	if f.busy {
		f.acked = true
		return
	}
	f.release()
}

func (w *sendWindow) unlink(f *frame) {
	if f.older == nil {
		w.oldest = f.newer
	} else {
		f.older.newer = f.newer
	}
	if f.newer == nil {
		w.newest = f.older
	} else {
		f.newer.older = f.older
	}
	f.older, f.newer = nil, nil
}

// reconnected makes everything that was sent before due at once: it may have gone down with the connection. The time of the outage does not count
// against the agent.
func (w *sendWindow) reconnected(now time.Time, outage time.Duration) {
	w.resendBefore = now
	if w.progress = w.progress.Add(outage); w.progress.After(now) {
		w.progress = now // it was written meanwhile
	}
	w.rtt.backoff = 0
}
