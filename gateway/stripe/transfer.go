package stripe

import "time"

// stripe takes a READ or WRITE of a striped file.
func (p *Proxy) stripe(o *op, pkt *packet) {
	f := o.file
	f.goes(o)
	if o.kind == write {
		f.meetsLost(o)
		o.pkt = pkt
		p.enqueue(o)
		return
	}
	pkt.release()
	f.length = uint32(o.end - o.off)
	f.ahead = max(f.ahead, o.end)
	if !p.fromAhead(o) {
		p.enqueue(o)
	}
}

// enqueue lets o wait for a lane. Requests in the queue do not conflict, so their order is free.
func (p *Proxy) enqueue(o *op) {
	o.sent = false
	p.queue = append(p.queue, o)
	if o.kind == write {
		p.queued += int(o.end - o.off)
	}
}

// schedule puts what waits on lanes that have room.
func (p *Proxy) schedule() {
	kept := p.queue[:0]
	for _, o := range p.queue {
		var l *lane
		if !o.file.holding && (p.early < maxEarly || o.file.turn[0] == o) {
			l = p.laneFor(o)
		}
		if l == nil {
			kept = append(kept, o)
			continue
		}
		if o.kind == write {
			p.queued -= int(o.end - o.off)
		}
		p.put(l, o)
	}
	clear(p.queue[len(kept):])
	p.queue = kept
}

// laneFor returns the least busy lane that may serve o and has room, nil if there is none.
func (p *Proxy) laneFor(o *op) *lane {
	var best *lane
	cost := int(o.end - o.off)
	consider := func(l *lane) {
		window := l.pace.window
		if !o.file.striped {
			window /= 2
		}
		room := len(l.pending) < 2 || l.load+cost <= window
		if !l.gone && room && (best == nil || l.load < best.load) && o.file.handleOn(l) != nil {
			best = l
		}
	}
	consider(p.first)
	if !o.zero || p.first.gone {
		for _, a := range o.file.on {
			consider(a.lane)
		}
	}
	return best
}

// put sends o on l, under the handle that l knows. On the first lane it is the client's packet again.
func (p *Proxy) put(l *lane, o *op) {
	id := o.id
	if l.number > 0 {
		id = p.freshID(l)
	} else {
		id = p.freeID(l, id)
	}
	o.cost, o.sent = int(o.end-o.off), true
	handle := o.file.handleOn(l)
	if o.kind == write {
		o.pkt = o.pkt.readdress(id, handle, o.off, o.cost)
		o.pkt.hold()
		p.send(l, o, id, o.pkt)
		return
	}
	p.scratch = appendRead(p.scratch[:0], id, handle, o.off, uint32(o.cost))
	p.send(l, o, id, made(p.scratch))
}

// fromLane takes what a lane said.
func (p *Proxy) fromLane(ev laneEvent) {
	l := ev.lane
	switch {
	case l.gone:
		if ev.pkt != nil {
			ev.pkt.release()
		}
	case ev.err != nil && l.number == 0:
		p.firstEnded(ev.err)
	case ev.err != nil:
		p.drop(l, ev.err)
	default:
		l.heard = time.Now()
		p.answer(l, ev.pkt)
	}
}

// answer finds the request that pkt answers. What fits none is passed on from the first lane and ends any other.
func (p *Proxy) answer(l *lane, pkt *packet) {
	id, ok := pkt.id()
	o := l.pending[id]
	if !ok || o == nil {
		if l.number > 0 {
			pkt.release()
			p.drop(l, errOddAnswer)
			return
		}
		p.greeted(pkt)
		p.toClient.put(pkt)
		return
	}
	if l.number > 0 && !o.fits(pkt) {
		pkt.release()
		p.drop(l, errOddAnswer)
		return
	}
	delete(l.pending, id)
	if l.number == 0 {
		p.handles.hear(o, pkt)
	}
	if o.cost > 0 {
		now := time.Now()
		l.pace.answered(now.Sub(o.at), now, l.load >= l.pace.window/2)
	}
	l.load -= o.cost
	switch {
	case o.own != nil:
		o.own(pkt, nil)
		pkt.release()
	case o.chunk != nil:
		p.aheadAnswered(o, pkt)
	case o.pinned:
		p.answeredPinned(o, pkt)
	default:
		p.answeredStriped(l, o, pkt)
	}
}

// greeted reads the first lane's VERSION.
func (p *Proxy) greeted(pkt *packet) {
	if pkt.typ() != typVersion || p.version != nil {
		return
	}
	c := cursor{b: pkt.bytes()[prefix+1:]}
	if c.u32() != version3 || c.bad {
		p.disable("the server does not speak SFTP 3")
		return
	}
	p.version = append([]byte(nil), pkt.bytes()...)
}

// fits reports whether pkt can be an answer to o: data no longer than was asked for, or a status.
func (o *op) fits(pkt *packet) bool {
	switch {
	case o.own != nil || pkt.typ() == typStatus:
		return true
	case o.opens != nil:
		return pkt.typ() == typHandle
	case o.about != nil && o.kind == query:
		return pkt.typ() == typAttrs
	case o.kind == read && pkt.typ() == typData:
		data, err := parseString(pkt.body())
		return err == nil && uint64(len(data)) <= o.end-o.off
	}
	return false
}

// answeredStriped decides whether a lane's answer is one that the first lane would have given too. A read in full and a write that was done are; so is
// a read that ends where the file did. Everything else is asked of the first lane again, and what that says stands.
func (p *Proxy) answeredStriped(l *lane, o *op, pkt *packet) {
	f := o.file
	var good bool
	if o.kind == read {
		got := uint64(0)
		if pkt.typ() == typData {
			got = uint64(len(pkt.body()) - 4)
		}
		code, _, err := parseStatus(pkt.body())
		atEnd := pkt.typ() == typStatus && err == nil && code == statusEOF && o.off >= f.base.size
		good = got == o.end-o.off && got > 0 || got > 0 && o.off+got == f.base.size || atEnd
		if good || l.number == 0 {
			f.read += int64(got)
		}
	} else {
		code, _, err := parseStatus(pkt.body())
		good = pkt.typ() == typStatus && err == nil && code == statusOK
		if good {
			f.written += int64(o.end - o.off)
			f.acked = max(f.acked, o.end)
		}
	}
	if !good && l.number > 0 && !p.first.gone {
		pkt.release()
		o.zero = true
		p.enqueue(o)
		return
	}
	if !good && o.kind == write {
		f.failed, f.refused = min(f.failed, o.off), max(f.refused, o.off)
		if !f.striped {
			p.leaveAlone(f, "a write failed before the file was striped")
		}
	}
	p.deliver(o, pkt)
}
