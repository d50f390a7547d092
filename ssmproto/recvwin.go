package ssmproto

// maxAhead is how far a message may run ahead of the one that is expected. The agent sends far fewer in a round trip.
const maxAhead = 1024

// verdict is what becomes of a received message.
type verdict int

const (
	accepted  verdict = iota // acknowledge it; pop gives it when its turn has come
	duplicate                // acknowledge it again: the first acknowledgement was lost (SPEC.md §4.4)
	refused                  // no room: leave it unacknowledged, it will be sent again
)

// recvWindow puts the messages of the other side in order (SPEC.md §4.4). It has no clock, lock or goroutine. Its capacity is bounded in
// messages and in memory.
type recvWindow struct {
	limitBytes int // of memory, for what runs ahead

	expected int64
	ring     []*frame // by seq & (len-1), for what has arrived of [expected, expected+len)
	bytes    int
}

// offer brings one message in. Only after accepted the window keeps f.
func (w *recvWindow) offer(f *frame) verdict {
	ahead := f.seq - w.expected
	switch {
	case f.seq >= 0 && f.seq < w.expected:
		return duplicate
	case f.seq < 0, ahead >= maxAhead, ahead > 0 && w.bytes+cap(f.buf) > w.limitBytes:
		return refused
	}
	for ahead >= int64(len(w.ring)) {
		w.grow()
	}
	slot := &w.ring[w.slot(f.seq)]
	if *slot != nil {
		return duplicate
	}
	*slot = f
	w.bytes += cap(f.buf)
	return accepted
}

// pop gives the message whose turn it is, or nil while it is missing.
func (w *recvWindow) pop() *frame {
	if len(w.ring) == 0 {
		return nil
	}
	slot := &w.ring[w.slot(w.expected)]
	f := *slot
	if f == nil {
		return nil
	}
	*slot = nil
	w.expected++
	w.bytes -= cap(f.buf)
	return f
}

func (w *recvWindow) slot(seq int64) int64 { return seq & int64(len(w.ring)-1) }

func (w *recvWindow) grow() {
	old := *w
	w.ring = make([]*frame, max(8, 2*len(old.ring)))
	for seq := old.expected; seq < old.expected+int64(len(old.ring)); seq++ {
		w.ring[w.slot(seq)] = old.ring[old.slot(seq)]
	}
}
