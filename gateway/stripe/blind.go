package stripe

import "bytes"

// A request is blind if it was sent before the server had opened its file: under the handle that was foretold. It has done what it should if the server gave
// that handle, and did one request after the other. Else it has done nothing, since no file had that handle, and is done again.

// openedEarly hears what the server says to an OPEN that the client believes answered. The client is told of a failure by every later request on the handle
// that is not answered early, and by CLOSE.
func (p *Proxy) openedEarly(o *op, pkt *packet) {
	f := o.about
	f.debt.opening = false
	h, ok := parseHandle(pkt)
	if !ok {
		f.debt.unopened = true
		p.owes(f, o, pkt)
	} else if !bytes.Equal(h, f.there) {
		f.there, f.debt.misled = bytes.Clone(h), true
	}
	vain := f.debt.vain
	f.debt.vain = nil
	for _, b := range vain {
		if f.debt.unopened {
			p.answeredPinned(b, made(f.debt.refusal))
		} else {
			p.again(b)
		}
	}
}

// wasVain reports whether o, which the server has answered, was blind and must be done again.
func (p *Proxy) wasVain(o *op) bool {
	f := o.subject()
	switch {
	case !o.blind:
		return false
	case f.debt.opening:
		o.blind = false
		f.debt.vain = append(f.debt.vain, o)
	case f.debt.misled:
		p.again(o)
	default:
		return false
	}
	return true
}

// again sends a blind request under the handle that the server has given.
func (p *Proxy) again(o *op) {
	o.blind = false
	f := o.subject()
	id := p.freshID(p.first)
	var pkt *packet
	switch {
	case o.closes:
		pkt = made(newOnHandle(typClose, id, f.there))
	case o.trims:
		pkt = made(newTruncate(id, f.there, o.end))
	default:
		o.pkt = o.pkt.readdress(id, f.there, o.off, int(o.end-o.off))
		pkt = o.pkt
		pkt.hold()
	}
	p.send(p.first, o, id, pkt)
}

// refuse answers a request on a file that could not be opened, of which the client has not been told.
func (p *Proxy) refuse(o *op) {
	if o.closes {
		p.forget(o.file)
	}
	p.deliver(o, made(o.subject().debt.refusal))
}
