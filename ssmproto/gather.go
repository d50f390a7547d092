package ssmproto

import (
	"net"
	"sync"
	"time"
)

const (
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
	// idle is called before each read that may wait, with the time of the last: what was read before has been handled then, and it says what it was about.
	idle func(time.Time) about

	frames   int // that were completed since the last read from the network
	last     reading
	drip     drip
	mark     mark // of the connection; raised while a drip is let come together
	nap      nap
	bulk     *[bulkRead]byte
	ahead    []byte // what of bulk is still to be given out
	deadline coarseDeadline
}

// reading is one read from the network, and what came of it.
type reading struct {
	ended  time.Time
	bytes  int
	filled bool // the buffer: there was more
	frames int
	about
}

// about is what a session says of what was read.
type about struct {
	answers bool          // had data, after we had sent some
	bulk    time.Duration // for which one side or the other has had more to send
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
		g.last.about = g.idle(g.last.ended)
	}
	g.last.frames, g.frames = g.frames, 0
	g.drip.note(g.last)
	into := g.room(p)
	n, err := g.collect(into)
	g.last = reading{ended: time.Now(), bytes: n, filled: n == len(into)}
	g.ahead = nil
	if g.bulk != nil && n > 0 {
		g.ahead = into[:n]
		return nil // an error that comes with data comes again without
	}
	return err
}

// collect reads from the network: what has come together while it waited, if messages drip in.
func (g *gatherer) collect(into []byte) (int, error) {
	if g.drip.wait > 0 {
		if !g.mark.raise() {
			time.Sleep(g.drip.wait)
		} else {
			g.nap.sleep(g.drip.wait)
			if n, err := g.mark.read(into); n > 0 || err != nil {
				return n, err
			}
		}
	}
	g.mark.lower()
	if g.drip.wait == 0 {
		g.nap.close()
	}
	return g.Conn.Read(into)
}

// room gives the buffer to read into: a borrowed one where the last read showed that p is too small.
func (g *gatherer) room(p []byte) []byte {
	much := g.drip.wait > 0 || g.last.filled || g.last.bytes > usualRead
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
