package stripe

import "time"

// tail is what is known of the end of a small file that is read. OpenSSH's clients ask for more than there is, get it all, and then ask once more to hear
// that there is no more.
type tail struct {
	asked bool      // FSTAT is under way
	short uint64    // the first READ ended here, before it was full; zero if it did not
	size  uint64    // what FSTAT said, after that READ
	since time.Time // when it said so; zero if it has not, or not of a regular file
	epoch uint64    // Proxy.epoch when it was asked
}

// lookForTail asks for the size of f together with a READ that begins at its start, so that both answers come in one round trip: behind the READ. Of a file
// that was placed it asks in any case, and before anything of it is read: that is how it is known again should its lane be lost.
func (p *Proxy) lookForTail(f *file, o *op) {
	if f == nil || f.writes || f.striped {
		return
	}
	placed := f.home != p.first
	tells := o.off == 0 && f.asked == int64(o.end) && p.learned.ended != nil && p.cfg.Early > 0 && p.off == "" && !p.changing()
	if !tells && !placed || f.looked {
		return
	}
	f.looked = placed
	if tells {
		f.tail = tail{asked: true, epoch: p.epoch}
	}
	p.ask(f.home, func(id uint32) []byte { return newOnHandle(typFstat, id, f.there) }, func(pkt *packet, err error) {
		f.tail.asked = false
		v, err := viewOf(pkt, err)
		if err != nil || !v.regular() {
			return
		}
		if placed {
			f.base = v
		}
		if tells {
			f.tail.size, f.tail.since = v.size, time.Now()
		}
	})
}

// shortRead notes a READ from the start that got less than it asked for, and reports whether o was one.
func (f *file) shortRead(o *op, got uint64) bool {
	short := o.off == 0 && 0 < got && got < o.end
	if short {
		f.tail.short = got
	}
	return short
}

// awaitsTail reports whether the answer to o will be known in a moment, from a question that is under way.
func (p *Proxy) awaitsTail(o *op) bool {
	f := o.file
	return f != nil && o.kind == read && f.tail.asked && f.tail.short > 0 && o.off == f.tail.short && f.tail.epoch == p.epoch
}

// atEnd reports whether o, a READ, begins where the file ended a moment ago, so that the server's answer to it is known.
func (p *Proxy) atEnd(o *op) bool {
	f := o.file
	if f == nil || o.kind != read || p.learned.ended == nil || o.end == o.off || len(f.turn) > 1 || p.off != "" || p.changing() {
		return false
	}
	t := &f.tail
	return t.short > 0 && t.short == t.size && o.off == t.short && t.epoch == p.epoch && !t.since.IsZero() && time.Since(t.since) <= p.cfg.fresh
}
