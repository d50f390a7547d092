package ssmproto

import (
	"net"
	"sync"
	"time"
)

const (
	// gatherTime is how long bulk that comes in small messages is let come together before it is read. To be woken costs several times what it costs to
	// handle a message of 1 KiB, and an agent sends 700 of them a second. The other side's timers take it for a part of the round trip (SPEC.md §4.2).
	gatherTime = 10 * time.Millisecond
	// usualRead is what the reader's own buffer takes.
	usualRead = 4 << 10
	// bulkRead is the size of the buffer that is borrowed while the network has more than that.
	bulkRead = 64 << 10
)

var bulkBuffers = sync.Pool{New: func() any { return new([bulkRead]byte) }}

// gatherer is a network connection that is read in as few system calls as the traffic allows: while small messages drip in, it waits for several, and when
// there is more than the reader takes, it reads ahead. An idle connection holds no buffer. One goroutine may read.
type gatherer struct {
	net.Conn
	idle func() (answers bool) // called before each read that may wait: what was read before has been handled then; says whether it had data that answers ours

	frames   int // that were completed since the last read from the network
	last     reading
	drip     drip
	bulk     *[bulkRead]byte
	ahead    []byte // what of bulk is still to be given out
	deadline coarseDeadline
}

// reading is one read from the network, and what came of it.
type reading struct {
	ended   time.Time
	bytes   int
	filled  bool // the buffer: there was more
	frames  int
	answers bool // had data, after we had sent some
}

// Read gives what was read ahead, or reads from the network.
func (g *gatherer) Read(p []byte) (int, error) {
	if len(g.ahead) == 0 {
		if err := g.fetch(p); err != nil || g.ahead == nil {
			return g.last.bytes, err
		}
	}
	n := copy(p, g.ahead)
	g.ahead = g.ahead[n:]
	return n, nil
}

// fetch reads from the network: ahead, or into p, and then leaves ahead nil.
func (g *gatherer) fetch(p []byte) error {
	if g.idle != nil {
		g.last.answers = g.idle()
	}
	g.last.frames, g.frames = g.frames, 0
	g.drip.note(g.last)
	if g.drip.gathering {
		time.Sleep(gatherTime)
	}
	into := g.room(p)
	n, err := g.Conn.Read(into)
	g.last = reading{ended: time.Now(), bytes: n, filled: n == len(into)}
	g.ahead = nil
	if g.bulk != nil && n > 0 {
		g.ahead = into[:n]
		return nil // an error that comes with data comes again without
	}
	return err
}

// room gives the buffer to read into: a borrowed one where the last read showed that p is too small.
func (g *gatherer) room(p []byte) []byte {
	much := g.drip.gathering || g.last.filled || g.last.bytes > usualRead
	switch {
	case much && len(p) < bulkRead:
		if g.bulk == nil {
			g.bulk, _ = bulkBuffers.Get().(*[bulkRead]byte)
		}
		return g.bulk[:]
	case g.bulk != nil:
		bulkBuffers.Put(g.bulk)
		g.bulk = nil
	}
	return p
}

// SetReadDeadline moves the limit of reads, unless it hardly moves.
func (g *gatherer) SetReadDeadline(t time.Time) error {
	if !g.deadline.moves(t) {
		return nil
	}
	return g.Conn.SetReadDeadline(t)
}

const (
	// dripRun is how many reads in a row make a drip.
	dripRun = 16
	// longestRun is how many it takes after drips that were none.
	longestRun = 1024
	// dripFrames is how many messages a wait has to bring.
	dripFrames = 4
	// dripReads is how many reads of a drip there are for each that answers: those who send in bulk get a word from the peer now and then, for every 32 KiB with
	// SFTP. A conversation, of small files say, has several answers among as many acknowledgements and data.
	dripReads = 16
	// A read of a drip comes not sooner after the one before than dripLeast on average, and not later than dripMost; it brings dripBytes at most on average.
	dripLeast = 500 * time.Microsecond
	dripMost  = 10 * time.Millisecond
	dripBytes = 2 << 10
)

// drip recognizes bulk that comes in small messages at a steady pace, from the agent's data or from its acknowledgements. It has no clock.
type drip struct {
	gathering bool
	thin      int // waits in a row that have brought too little, or an answer
	run       int // reads that it takes to believe in a drip; dripRun when zero

	reads, bytes int
	answers      int
	began, last  time.Time
}

// note takes in a read from the network. Questions and answers are no drip: every wait would delay them.
func (d *drip) note(r reading) {
	if d.gathering {
		d.judge(r)
		return
	}
	if d.reads == 0 || r.filled || r.ended.Sub(d.last) > dripMost {
		d.reads, d.bytes, d.answers, d.began = 0, 0, 0, r.ended
	}
	d.reads++
	d.bytes += r.bytes
	if r.answers {
		d.answers++
	}
	d.last = r.ended
	run := max(d.run, dripRun)
	if d.reads < run {
		return
	}
	d.gathering = d.bytes <= run*dripBytes && d.answers <= run/dripReads && d.last.Sub(d.began) >= time.Duration(run)*dripLeast
	d.reads = 0
}

// judge ends the gathering when it does not pay: when there is so much that nobody needs to wait for it, or, twice in a row, too little or an answer that
// was kept waiting.
func (d *drip) judge(r reading) {
	if r.frames >= dripFrames && !r.answers {
		d.thin = 0
		if r.bytes <= bulkRead/4 {
			d.run = 0
			return
		}
	} else if d.thin++; d.thin < 2 {
		return
	} else {
		d.run = min(2*max(d.run, dripRun), longestRun)
	}
	d.gathering, d.thin, d.reads = false, 0, 0
}

// coarseDeadline leaves out the settings of a time limit that hardly move it: every message sets the limits anew, and each setting is work for the timers of
// the runtime.
type coarseDeadline struct {
	step time.Duration // less than this is not worth it
	set  time.Time
}

func (d *coarseDeadline) moves(t time.Time) bool {
	if by := t.Sub(d.set); !t.IsZero() && by >= 0 && by < d.step {
		return false
	}
	d.set = t
	return true
}
