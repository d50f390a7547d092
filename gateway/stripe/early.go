package stripe

import "bytes"

// maxEarlyCloses bounds the files that the client has closed and the server has not said so.
const maxEarlyCloses = 16

// learned are answers that the server has given in this stream, kept to be given again: who is answered early sees the bytes that the server sends, its
// words included. Nothing of a kind is answered early before the server has done so once.
type learned struct {
	written []byte // to a WRITE: done
	trimmed []byte // to an FSETSTAT that sets the size alone: done
	closed  []byte // to a CLOSE: done
	ended   []byte // to a READ: the end of the file
}

// learn keeps an answer that may be given again.
func (p *Proxy) learn(o *op, pkt *packet) {
	if pkt.typ() != typStatus || p.cfg.Early <= 0 || o.on != p.first {
		return
	}
	code, _, err := parseStatus(pkt.body())
	keep := func(answer *[]byte, want uint32) {
		if err == nil && code == want && *answer == nil {
			*answer = bytes.Clone(pkt.bytes())
		}
	}
	switch {
	case o.closes:
		keep(&p.learned.closed, statusOK)
	case o.kind == write:
		keep(&p.learned.written, statusOK)
	case o.kind == read:
		keep(&p.learned.ended, statusEOF)
	case o.trims:
		keep(&p.learned.trimmed, statusOK)
	}
}

// known returns the answer that o will have if all goes well, nil if the server has not given one like it.
func (p *Proxy) known(o *op) []byte {
	switch {
	case o.closes:
		return p.learned.closed
	case o.kind == write:
		return p.learned.written
	case o.trims:
		return p.learned.trimmed
	}
	return nil
}

// isEarly reports whether o, which goes to the first lane, is answered before the server has done so. That is for a client which does one thing after
// the other: while other requests of its are under way it is not the round trips that it waits for.
//
// The CLOSE of a file that was only read cannot lose anything. WRITEs, and the FSETSTAT by which scp says how long the file is, are answered early at the
// start of a file; their failure is what CLOSE is answered with, and anything else asked in between waits until the server has answered them.
func (p *Proxy) isEarly(o *op) bool {
	if p.cfg.Early <= 0 || p.off != "" || !o.pinned {
		return false
	}
	if o.opens != nil {
		return o.kind != create && o.on == p.first && p.opensEarly(o)
	}
	if p.known(o) == nil {
		return false
	}
	f := o.file
	switch {
	case o.closes:
		return f != nil && !f.writes && len(f.turn) == 0 && p.closes < maxEarlyCloses
	case o.kind == write:
		return f != nil && f.mayOwe(o.off) && o.end <= uint64(p.cfg.Early) && len(f.turn) == 0 && p.onlyOwing(f)
	case o.trims:
		return o.about.mayOwe(o.end) && o.end > 0 && o.end <= uint64(p.cfg.Early) && len(o.about.turn) == 0 && p.onlyOwing(o.about)
	}
	return false
}

// mayOwe reports whether f was written from its start to next without a failure that is known of, and could be cut if there is one that is not.
func (f *file) mayOwe(next uint64) bool {
	return f.writes && f.mendable && !f.nameless && f.home.number == 0 && f.debt.refusal == nil && !f.debt.trimmed && f.next == next && uint64(f.asked) == next
}

// onlyOwing reports whether nothing is under way but what f owes, and CLOSEs that nobody waits for.
func (p *Proxy) onlyOwing(f *file) bool {
	for _, o := range p.outstanding {
		if !o.early || !o.closes && o.subject() != f {
			return false
		}
	}
	return true
}

// subject is the watched file that a request with a handle is about, nil if there is none.
func (o *op) subject() *file {
	if o.file != nil {
		return o.file
	}
	return o.about
}

// answerEarly gives the client the answer that o, which was just sent, will have if all goes well.
func (p *Proxy) answerEarly(o *op) {
	if o.opens != nil {
		p.openEarly(o)
		return
	}
	if o.closes {
		p.closes++
	} else {
		f := o.subject()
		f.debt.owed++
		f.debt.trimmed = f.debt.trimmed || o.trims
		p.owing = f
	}
	p.hidden++
	answer := made(p.known(o))
	answer.setID(o.id)
	p.toClient.put(answer)
}

// awaitsEarly reports whether o must wait for the server to answer what the client believes answered. A WRITE behind the others on the file and
// its CLOSE may follow at once, as there are servers that do several WRITEs at a time; anything else may see or publish what has yet to be written. What changes files, or has a
// handle that is not known, finds those closed that the client believes closed.
func (p *Proxy) awaitsEarly(o *op) bool {
	f := p.owing
	switch {
	case o.mute:
		return false
	case f == nil:
		return p.closes > 0 && (o.kind >= create || o.unheld)
	case o.file == f && o.closes:
		return false
	case o.file == f && o.kind == write:
		return o.off < f.next || f.debt.trimmed || f.debt.opening && !p.isEarly(o)
	default:
		return !o.trims || o.about != f || !p.isEarly(o)
	}
}

// settle hears the server's answer to a request that the client believes answered.
func (p *Proxy) settle(o *op, pkt *packet) {
	p.done(o)
	p.letGo(o)
	good := statusError(pkt) == nil
	if o.closes {
		p.closes--
		if !good {
			p.cfg.Log.Warn("a file that was read could not be closed", "path", string(o.file.path), "reason", refusal(pkt))
		}
		pkt.release()
		return
	}
	f := o.subject()
	switch {
	case o.opens != nil:
		p.openedEarly(o, pkt)
	case good:
		f.done(o)
	default:
		p.owes(f, o, pkt)
	}
	pkt.release()
	if f.debt.owed--; f.debt.owed > 0 {
		return
	}
	p.owing = nil
	if c := f.debt.closing; c != nil {
		f.debt.closing = nil
		p.closedOwing(c, c.answer)
	}
}
