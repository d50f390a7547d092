package stripe

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
)

// A file that was placed on a further lane comes home, to the first, if it turns out to be large enough to be striped, if something is asked of it that may
// be about other files too, and if its lane is lost.

var (
	errNameless  = errors.New("names were moved since it was opened")
	errIrregular = errors.New("not a regular file") // to open it once more may take for ever, or do something
)

// placedIn returns a placed file whose handle is somewhere in pkt, nil if there is none.
func (p *Proxy) placedIn(pkt *packet) *file {
	if p.ownHandles == nil || !bytes.Contains(pkt.bytes(), p.ownHandles) {
		return nil
	}
	for _, f := range p.files {
		if f.home != p.first && !f.stays && bytes.Contains(pkt.bytes(), f.handle) {
			return f
		}
	}
	return nil
}

// awaitsHome reports whether o is about a file that must come home first.
func (p *Proxy) awaitsHome(o *op) bool {
	if o.calls != nil {
		o.calls.homing = true
		return true
	}
	f := o.subject()
	return f != nil && f.homing
}

// bringHome opens a placed file on the first lane as soon as nothing about it is under way, and closes it where it was.
func (p *Proxy) bringHome(f *file) {
	if f.moving || f.home == p.first || p.underWay(f) {
		return
	}
	f.moving = true
	from, there := f.home, f.there
	done := func(h []byte, err error) {
		switch {
		case f.home != from: // the lane was lost
			if h != nil {
				p.closeOn(&attachment{lane: p.first, handle: h}, func(*packet, error) {})
			}
			return
		case err != nil:
			f.stays = true
			p.leaveAlone(f, err.Error())
		default:
			f.home, f.there = p.first, h
			p.closeBehind(f, &attachment{lane: from, handle: there})
			return
		}
		f.homing, f.moving = false, false
	}
	question := func(id uint32) []byte { return newOnHandle(typFstat, id, there) }
	p.reopenAfter(f, from, question, func(was, is view) bool { return is == was }, done)
}

// closeBehind closes f where it was before it came home. A server may report only then that what was written there is not on the disk.
func (p *Proxy) closeBehind(f *file, was *attachment) {
	p.closeOn(was, func(pkt *packet, err error) {
		if err == nil && f.writes && statusError(pkt) != nil {
			f.doubt = "it could not be closed where it was written first: " + refusal(pkt)
		}
		f.homing, f.moving = false, false
	})
}

// reopenAfter asks a lane what f is, and if that is a regular file and its name has not been moved by then, opens it on the first lane. right decides whether
// that is the same file, by what was answered and what the first lane sees.
func (p *Proxy) reopenAfter(f *file, at *lane, question func(id uint32) []byte, right func(was, is view) bool, then func(handle []byte, err error)) {
	if f.nameless {
		then(nil, errNameless)
		return
	}
	p.ask(at, question, func(pkt *packet, err error) {
		was, err := viewOf(pkt, err)
		switch {
		case err != nil:
		case !was.regular():
			err = errIrregular
		case f.nameless: // by now
			err = errNameless
		}
		if err != nil {
			then(nil, err)
			return
		}
		p.reopen(f, func(is view) bool { return right(was, is) }, then)
	})
}

// reopen opens f on the first lane by its name, and lets right decide whether that is the same file.
func (p *Proxy) reopen(f *file, right func(view) bool, then func(handle []byte, err error)) {
	flags := uint32(openRead)
	if f.writes {
		flags = openWrite
	}
	if f.off == readAndWritten {
		flags = openRead | openWrite
	}
	p.ask(p.first, func(id uint32) []byte { return newOpen(id, f.path, flags) }, func(pkt *packet, err error) {
		if err != nil {
			then(nil, err)
			return
		}
		h, ok := parseHandle(pkt)
		if !ok {
			then(nil, errors.New("it could not be opened again: "+refusal(pkt)))
			return
		}
		h = bytes.Clone(h)
		p.ask(p.first, func(id uint32) []byte { return newOnHandle(typFstat, id, h) }, func(pkt *packet, err error) {
			v, err := viewOf(pkt, err)
			if err == nil && !right(v) {
				err = errOtherFile
			}
			if err != nil {
				p.closeOn(&attachment{lane: p.first, handle: h}, func(*packet, error) {})
				h = nil
			}
			then(h, err)
		})
	})
}

// rescue deals with the files that were placed on a lost lane, and with what was asked about them there.
func (p *Proxy) rescue(l *lane, stranded []*op) {
	slices.SortFunc(stranded, func(a, b *op) int { return cmp.Compare(a.nth, b.nth) })
	asked := map[*file][]*op{}
	for _, f := range p.files {
		if f.home == l {
			asked[f] = nil
		}
	}
	for _, o := range stranded {
		switch {
		case o.opens != nil:
			p.openAgain(o)
		case o.early: // the CLOSE of a file that was read, which the lane's end has closed
			p.closes--
			p.done(o)
			p.letGo(o)
		default:
			asked[o.subject()] = append(asked[o.subject()], o)
		}
	}
	for f, ops := range asked {
		p.restore(f, ops)
	}
}

// restore opens a file again whose lane was lost, and does again what was not answered: all of it sets or reads what stands at an offset, so that what the
// machine may have done already makes no difference.
func (p *Proxy) restore(f *file, ops []*op) {
	f.home, f.there, f.homing, f.moving = p.first, nil, true, true
	done := func(h []byte, err error) {
		f.homing, f.moving = false, false
		if err != nil {
			p.lose(f, ops, err)
			return
		}
		f.there = h
		for _, o := range ops {
			f.mayComeLate(o)
			o.on = p.first
			p.resend(o)
		}
	}
	question := func(id uint32) []byte { return newNamed(typStat, id, f.path) }
	p.reopenAfter(f, p.first, question, func(_, is view) bool { return f.asLeft(is) }, done)
}

// noteAsked notes what an accepted request may make of names and of the file that it is about: that is how the file is known again. The packet does not outlive
// the request's sending, so its path is copied.
func (p *Proxy) noteAsked(o *op) {
	p.placing.moved = p.placing.moved || o.moves
	if f := o.bound(); f != nil {
		f.resized = f.resized || o.sizes
		f.reach = max(f.reach, o.end)
	}
	o.path = bytes.Clone(o.path)
}

// mayComeLate notes a change that a lost lane may still make.
func (f *file) mayComeLate(o *op) {
	switch {
	case o.sizes:
		f.lost = append(f.lost, span{0, math.MaxUint64})
	case o.kind == write:
		f.lost = append(f.lost, span{o.off, o.end})
	}
}

// asLeft reports whether v can be a view of f, which was on a lane that is lost.
func (f *file) asLeft(v view) bool {
	switch {
	case !v.regular():
		return false
	case !f.writes:
		return f.base == view{} && f.read == 0 || v == f.base
	default:
		return f.resized || v.size <= f.reach && v.size >= f.debt.reach
	}
}

// lose answers everything that is and will be asked about f with a failure.
func (p *Proxy) lose(f *file, ops []*op, err error) {
	p.cfg.Log.Warn("a file was lost with its lane", "path", string(f.path), "reason", err)
	p.leaveAlone(f, "its lane was lost")
	f.debt.hole, f.debt.unopened = math.MaxUint64, true
	f.debt.refusal = newStatus(0, statusFailure, fmt.Sprintf("a lane was lost that carried %s (%v); transfer it again", f.path, err))
	for _, o := range ops {
		p.deliver(o, made(f.debt.refusal))
	}
}

// keep holds a request that was placed as it came, in case its lane is lost, and returns what is to be sent: for a file that is to be made, an OPEN that
// does not take one that is there.
func (p *Proxy) keep(o *op, pkt *packet) *packet {
	pkt.hold()
	o.pkt, o.kept = pkt, len(pkt.bytes())
	p.kept += o.kept
	if o.kind == read || o.kind == write {
		o.cost = int(min(o.end-o.off, maxPacket))
	}
	if o.kind != create {
		return pkt
	}
	exclusive := made(pkt.bytes())
	pkt.release()
	at := 4 + len(o.opens.path)
	binary.BigEndian.PutUint32(exclusive.body()[at:], o.opens.flags|openExcl)
	return exclusive
}

// letGo releases what was kept of a request.
func (p *Proxy) letGo(o *op) {
	p.kept -= o.kept
	o.kept = 0
	if o.pkt != nil {
		o.pkt.release()
		o.pkt = nil
	}
}
