package stripe

import (
	"bytes"
	"crypto/rand"
	"encoding/binary"
)

// batch is a client that copies files into a directory, one after the other: it opens one, writes it, closes it, and does nothing else in between.
type batch struct {
	open  *opening // the last
	file  *file    // nil before it is open
	ready bool     // it has been closed, and all was well: the next may be opened early
}

// uploading reports whether an OPEN is of the kind whose answer may be given early: for writing alone, of a file that may be there already.
func (o *opening) uploading() bool {
	return o.flags&^openTrunc == openWrite|openCreate && o.writable
}

// follow keeps up with what the client does.
func (p *Proxy) follow(o *op) {
	b := &p.batch
	switch {
	case o.opens != nil && o.opens.uploading():
		*b = batch{open: o.opens}
	case b.file == nil || b.ready || o.subject() != b.file:
		*b = batch{}
	}
}

func dirOf(path []byte) []byte { return path[:bytes.LastIndexByte(path, '/')+1] }

// opensEarly reports whether o, an OPEN, is answered before the server has done so: the client copies files into a directory, one before went there in the
// same way, it waits for nothing, and the handle that the server will give can be foretold.
func (p *Proxy) opensEarly(o *op) bool {
	b := &p.batch
	return o.opens.uploading() && b.ready && b.open.flags == o.opens.flags && bytes.Equal(dirOf(b.open.path), dirOf(o.opens.path)) &&
		p.learned.written != nil && p.handles.foretold() != nil && p.watchable(o.opens) && len(p.outstanding) == 0 && len(p.first.pending) == 0
}

// handles are those that the first lane gives. A server that gives the one again that it was given back last, as OpenSSH's does, lets the next one be
// foretold while nothing else is under way. A wrong guess does no harm, as it is a handle that is not open, but makes it the last one.
type handles struct {
	free   []byte // given back last, with none given since
	proven bool   // that it is the next
	wrong  bool   // it was not, once
}

func (h *handles) foretold() []byte {
	if h.wrong || !h.proven {
		return nil
	}
	return h.free
}

// hear learns from an answer of the first lane.
func (h *handles) hear(o *op, pkt *packet) {
	switch {
	case pkt.typ() == typHandle:
		if given, err := parseString(pkt.body()); err == nil && h.free != nil {
			h.proven = bytes.Equal(given, h.free)
			h.wrong = h.wrong || !h.proven
		}
		h.free = nil
	case o.gives != nil && statusError(pkt) == nil:
		h.free = o.gives
	}
}

// openEarly gives the client a handle of the proxy's own for a file that the server has just been asked to open. It is longer than any server's that could be
// foretold, and cannot be guessed: neither does a client that uses one which it has closed meet this file, nor can anything else in a request be taken for it.
func (p *Proxy) openEarly(o *op) {
	f := p.watch(o.opens, p.newHandle())
	f.there, f.renamed = p.handles.foretold(), true
	f.debt.opening = true
	f.debt.owed++
	o.about, p.owing = f, f
	p.hidden++
	p.toClient.put(made(finish(appendString(begin(nil, typHandle, o.id), f.handle))))
}

// newHandle makes a handle that no server gives.
func (p *Proxy) newHandle() []byte {
	if p.ownHandles == nil {
		p.ownHandles = make([]byte, 16)
		_, _ = rand.Read(p.ownHandles) // never fails, see crypto/rand
	}
	p.ownHandle++
	return binary.BigEndian.AppendUint32(bytes.Clone(p.ownHandles), p.ownHandle)
}

// addressed gives a request the handle under which the server knows the file, where the client knows it by one of ours.
func (p *Proxy) addressed(o *op, pkt *packet) *packet {
	if f := o.subject(); f != nil {
		return f.addressed(o, pkt)
	}
	if pkt.typ() == typExtended {
		for _, f := range p.files {
			if f.home == p.first {
				pkt = f.addressed(o, pkt)
			}
		}
	}
	return pkt
}

func (f *file) addressed(o *op, pkt *packet) *packet {
	switch {
	case !f.renamed || f.debt.unopened:
		return pkt
	case o.kind == write && o.file == f:
		return pkt.readdress(o.id, f.there, o.off, int(o.end-o.off))
	}
	ours, theirs := appendString(nil, f.handle), appendString(nil, f.there)
	b := bytes.ReplaceAll(pkt.bytes(), ours, theirs)
	pkt.release()
	return made(finish(b))
}
