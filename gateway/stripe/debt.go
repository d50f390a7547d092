package stripe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// debt is what a file owes for requests that were answered early.
type debt struct {
	owed    int    // requests answered early that the server has not answered
	trimmed bool   // an FSETSTAT is among them, or was
	refusal []byte // the server's answer to the first that failed: what the client is told at the next opportunity, and at CLOSE
	hole    uint64 // where the first WRITE that failed begins
	reach   uint64 // how far the file was written, or set, by requests that did not fail
	closing *op    // the client's CLOSE, answered by the server before everything else was

	opening  bool  // the OPEN is among those that are owed
	unopened bool  // it failed
	misled   bool  // it gave another handle than was foretold
	vain     []*op // blind requests that were answered before the OPEN
}

// done notes a WRITE, or an FSETSTAT of the size, that the server has done.
func (f *file) done(o *op) {
	if o.kind == write {
		f.written += int64(o.end - o.off)
	}
	f.debt.reach = max(f.debt.reach, o.end)
}

// sizedTo notes an FSETSTAT of the size that was not answered early.
func (f *file) sizedTo(o *op) {
	if f.debt.reach = math.MaxUint64; o.trims {
		f.debt.reach = o.end
	}
}

// owes notes that o failed, of which the client believes otherwise.
func (p *Proxy) owes(f *file, o *op, pkt *packet) {
	if f.debt.refusal == nil {
		p.cfg.Log.Warn("a request failed that had been answered", "path", string(f.path), "reason", refusal(pkt))
		f.debt.hole = math.MaxUint64
		f.debt.refusal = bytes.Clone(pkt.bytes())
		if pkt.typ() != typStatus {
			f.debt.refusal = newStatus(0, statusFailure, "the machine gave an answer that is none")
		}
	}
	if o.kind == write {
		f.debt.hole = min(f.debt.hole, o.off)
	}
	p.leaveAlone(f, "a request failed before the file was striped")
}

// collect returns what the client is to hear of a request about f in place of the server's pkt: the failure that it does not know of yet.
func (f *file) collect(pkt *packet) *packet {
	if f.debt.refusal == nil || pkt.typ() != typStatus {
		return pkt
	}
	if code, _, err := parseStatus(pkt.body()); err != nil || code != statusOK {
		return pkt
	}
	pkt.release()
	return made(f.debt.refusal)
}

// holed reports whether something lies behind a WRITE that failed. One server alone would have left the part before it, and the client would not have
// gone on: clients resume at the size they find.
func (f *file) holed() bool { return f.debt.refusal != nil && f.debt.hole < f.debt.reach }

// closeOwing closes a file of which a failure is known that the client has not been told of: without a hole.
func (p *Proxy) closeOwing(o *op, pkt *packet) {
	f := o.file
	send := func() {
		id := p.freeID(p.first, o.id)
		pkt.setID(id)
		p.send(p.first, o, id, pkt)
	}
	if !f.holed() {
		send()
		return
	}
	p.truncate(p.first, f, f.debt.hole, func(err error) {
		f.debt.mended(f, err)
		send()
	})
}

// closedOwing takes the server's answer to the CLOSE of a file some of whose WRITEs were answered early. The client is told when everything has been
// answered, and what went wrong if anything did.
func (p *Proxy) closedOwing(o *op, pkt *packet) {
	f := o.file
	switch {
	case f.debt.owed > 0:
		o.answer, f.debt.closing = pkt, o
	case f.debt.unopened:
		pkt.release()
		p.deliver(o, made(f.debt.refusal))
	case f.holed():
		p.cutByName(f, func(err error) {
			f.debt.mended(f, err)
			p.deliver(o, f.collect(pkt))
		})
	default:
		p.deliver(o, f.collect(pkt))
	}
}

// mending reports whether the CLOSE of a file is under way some of which failed unknown to the client. The server may have done it, and the file have yet to be
// cut by its name: what the client asks meanwhile could write what is then cut off, and an OPEN be given the handle of which the client does not know yet that it
// is closed.
func (p *Proxy) mending() bool {
	for _, o := range p.outstanding {
		if o.closes && o.file != nil && o.file.debt.refusal != nil {
			return true
		}
	}
	return false
}

// mended notes that the hole is no more, or that the client must hear of it.
func (d *debt) mended(f *file, err error) {
	d.reach = d.hole
	if err != nil {
		d.refusal = newStatus(0, statusFailure, fmt.Sprintf("%s is damaged: a part of it could not be written (%s); transfer it again",
			f.path, textOf(d.refusal)))
	}
}

func textOf(status []byte) string {
	if _, text, err := parseStatus(status[least:]); err == nil && text != "" {
		return text
	}
	return "refused"
}

// cutByName cuts a file that has been closed, if its name still stands for one that is as long as it was left.
func (p *Proxy) cutByName(f *file, then func(error)) {
	named := func(typ byte) func(uint32) []byte {
		return func(id uint32) []byte {
			b := appendString(begin(nil, typ, id), f.path)
			if typ == typSetstat {
				b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, attrSize), f.debt.hole)
			}
			return finish(b)
		}
	}
	p.ask(p.first, named(typStat), func(pkt *packet, err error) {
		v, err := viewOf(pkt, err)
		if err == nil && (!v.regular() || v.size != f.debt.reach) {
			err = errOtherFile
		}
		if err != nil {
			p.mendFailed(f, err)
			then(err)
			return
		}
		p.ask(p.first, named(typSetstat), func(pkt *packet, err error) {
			if err == nil {
				err = statusError(pkt)
			}
			if err != nil {
				p.mendFailed(f, err)
			}
			then(err)
		})
	})
}

func (p *Proxy) mendFailed(f *file, err error) {
	p.cfg.Log.Warn("an upload left a hole", "path", string(f.path), "reason", err)
}

var errOtherFile = errors.New("stripe: the name stands for another file now")
