package stripe

import (
	"bytes"
	"math"
)

// Extensions that change nothing, and those that change neither the size of a file nor what a name stands for. Every other is taken to change everything.
var (
	asking = map[string]bool{
		"statvfs@openssh.com": true, "fstatvfs@openssh.com": true, "limits@openssh.com": true, "expand-path@openssh.com": true,
		"users-groups-by-id@openssh.com": true, "home-directory": true,
	}
	harmless = map[string]bool{"fsync@openssh.com": true, "lsetstat@openssh.com": true}
	renaming = map[string]bool{"posix-rename@openssh.com": true, "hardlink@openssh.com": true}
)

// fromTheClient takes the client's next request, or keeps it until those it conflicts with are done.
func (p *Proxy) fromTheClient(pkt *packet) {
	o := p.classify(pkt)
	p.place(o)
	if p.mustWait(o) {
		p.noteWait(o, pkt)
		p.held = pkt
		return
	}
	p.accept(o, pkt)
}

// classify says what a request may see and change. What cannot be read may do everything, and goes to the first lane as it is.
func (p *Proxy) classify(pkt *packet) *op {
	id, ok := pkt.id()
	o := &op{kind: modify, id: id, pinned: true, on: p.first}
	if !ok {
		o.mute = true
		return o
	}
	p.classifyAs(o, pkt)
	if p.placing.moved {
		o.path = nil
	}
	if f := o.subject(); f != nil {
		o.on = f.home
	}
	return o
}

func (p *Proxy) classifyAs(o *op, pkt *packet) {
	switch pkt.typ() {
	case typRead, typWrite:
		p.classifyAccess(o, pkt)
	case typClose:
		o.kind, o.closes = neutral, true
		o.file = p.files[string(firstString(pkt.body()))]
		o.unheld = o.file == nil
		if f := o.file; f != nil && f.striped {
			o.pinned = false
			if f.writes {
				o.kind = modify
			}
		}
	case typOpen:
		path, flags, err := parseOpen(pkt.body())
		o.path = path
		o.opens = &opening{path: path, flags: flags, writable: createsWritable(pkt.body())}
		o.sizes = err != nil || flags&openTrunc != 0
		if err == nil && flags&(openCreate|openTrunc) == 0 {
			o.kind = query
		}
	case typFstat, typReaddir:
		h := firstString(pkt.body())
		o.kind, o.about, o.dir = query, p.files[string(h)], p.walk.open[string(h)]
		o.unheld = o.about == nil
	case typOpendir:
		o.kind = query
		o.lists, _ = parseString(pkt.body())
	case typLstat, typRealpath, typStat, typReadlink:
		o.kind, o.stats = query, pkt.typ() == typLstat || pkt.typ() == typStat
		o.path, _ = parseString(pkt.body())
	case typSetstat:
		o.path = (&cursor{b: pkt.body()}).str()
		o.sizes = setsSize(pkt.body())
	case typFsetstat:
		o.sizes = setsSize(pkt.body())
		p.classifyFsetstat(o, pkt)
	case typMkdir:
		o.makes = true
	case typRemove, typRmdir, typRename, typSymlink:
		o.moves = true
	case typExtended:
		c := cursor{b: pkt.body()}
		name := c.str()
		if string(name) == "fsync@openssh.com" {
			o.about = p.files[string(c.str())]
		} else {
			o.calls = p.placedIn(pkt)
		}
		o.moves = !harmless[string(name)]
		o.sizes = o.moves && !renaming[string(name)]
		if asking[string(name)] {
			o.kind, o.moves, o.sizes = query, false, false
		}
	default:
		o.mute, o.moves, o.sizes = true, true, true // OpenSSH's server does not answer these
	}
}

func (p *Proxy) classifyAccess(o *op, pkt *packet) {
	a, err := parseAccess(pkt.typ(), pkt.body())
	if err != nil {
		o.about = p.files[string(firstString(pkt.body()))]
		return
	}
	o.kind, o.off, o.end = read, a.off, a.off+uint64(a.n)
	o.file = p.files[string(a.handle)]
	o.unheld = o.file == nil
	if pkt.typ() == typWrite {
		o.kind = write
		if o.file == nil {
			o.off, o.end = 0, math.MaxUint64 // the file may be open for appending
		}
	}
	if o.file != nil {
		o.pinned = !o.file.queues()
	}
}

func (p *Proxy) classifyFsetstat(o *op, pkt *packet) {
	handle, size, alone := parseFsetstat(pkt.body())
	o.about = p.files[string(handle)]
	if o.trims = alone && o.about != nil; o.trims {
		o.end = size
	}
}

// accept starts a request that nothing stands in the way of.
func (p *Proxy) accept(o *op, pkt *packet) {
	p.expect(o)
	p.keepCompany(o)
	p.noteAsked(o)
	if o.kind == write && o.file != nil {
		pkt.trim(len(o.file.handle), int(o.end-o.off))
	}
	if o.mute {
		if pkt.typ() != typInit {
			p.disable("the client sends requests that SFTP 3 does not have")
		}
		p.first.out.put(pkt)
		return
	}
	o.early = p.isEarly(o)
	p.follow(o)
	p.begin(o)
	if o.file != nil && (o.kind == read || o.kind == write) && !o.early {
		o.file.turn = append(o.file.turn, o)
	}
	if f := o.subject(); f != nil && f.debt.unopened {
		pkt.release()
		p.refuse(o)
		return
	}
	if p.countOn(o); o.on != p.first || o.kind == create || o.trials > 0 {
		pkt = p.keep(o, pkt)
	}
	pkt = p.addressed(o, pkt)
	switch {
	case o.closes && !o.pinned:
		p.closeFile(o, pkt)
	case !o.pinned:
		p.stripe(o, pkt)
	case p.fromHead(o):
		pkt.release()
	case p.atEnd(o):
		pkt.release()
		p.hidden++
		p.deliver(o, made(p.learned.ended))
	case p.foresees(o):
		o.opens.path = bytes.Clone(o.opens.path)
		p.goesTo(o)
		p.confirm(o, pkt)
	default:
		p.goesTo(o)
		p.pin(o, pkt)
		p.lookAhead(o)
	}
}

// pin sends a request to its lane as it came.
func (p *Proxy) pin(o *op, pkt *packet) {
	o.lists = bytes.Clone(o.lists)
	if o.opens != nil {
		o.opens.path = bytes.Clone(o.opens.path)
	}
	switch {
	case !o.closes:
	case o.file == nil:
		p.closesUnknown(pkt)
	default:
		p.forget(o.file)
		if o.file.debt.refusal != nil {
			p.closeOwing(o, pkt)
			return
		}
	}
	if o.kind == read || o.kind == write {
		o.file.goes(o)
	}
	if o.kind == write {
		o.file.meetsLost(o)
	}
	if f := o.subject(); f != nil && f.debt.opening {
		o.blind = true
		if o.kind == write {
			o.pkt = pkt
			pkt.hold()
		}
	}
	if o.kind == read && o.on != p.first {
		p.lookForTail(o.file, o)
	}
	id := p.freeID(o.on, o.id)
	pkt.setID(id)
	p.send(o.on, o, id, pkt)
	switch {
	case o.early:
		p.answerEarly(o)
	case o.kind == read && o.on == p.first:
		p.lookForTail(o.file, o)
	}
}

// closesUnknown notes the CLOSE of a handle that is not watched. A client that guesses may mean the one that an OPEN under way is about to be given.
func (p *Proxy) closesUnknown(pkt *packet) {
	h := firstString(pkt.body())
	delete(p.walk.open, string(h))
	for _, o := range p.outstanding {
		if o.opens != nil && o.on == p.first && o.kind != create { // the others get handles of ours
			o.opens.closed = append(o.opens.closed, bytes.Clone(h))
		}
	}
}

// expect prepares what is known of files for what o may change.
func (p *Proxy) expect(o *op) {
	if o.kind < write {
		return
	}
	p.epoch++
	for _, b := range p.outstanding {
		if b.opens != nil {
			b.opens.nameless = b.opens.nameless || o.moves
		}
	}
	for _, f := range p.files {
		f.nameless = f.nameless || o.moves
		p.dropChunks(f)
		if o.sizes && !o.spares(f) {
			p.cutAhead(f)
			f.sized(o)
		}
		if o.moves && !f.striped {
			p.leaveAlone(f, "names changed before the lanes had opened the file")
		}
	}
}

// answeredPinned passes the answer of the one lane that was asked on, and learns from it.
func (p *Proxy) answeredPinned(o *op, pkt *packet) {
	if o.opens != nil && (o.on != p.first || o.kind == create) {
		p.placedOpen(o, pkt)
		return
	}
	p.tried(o)
	if p.mayBeStale(o, pkt) {
		return
	}
	if p.wasVain(o) {
		pkt.release()
		return
	}
	p.learn(o, pkt)
	if o.early {
		p.settle(o, pkt)
		return
	}
	if o.closes && o.file != nil && o.file.writes {
		if err := o.file.doubted(); err != nil && statusError(pkt) == nil {
			pkt.release()
			pkt = made(newStatus(o.id, statusFailure, err.Error()))
		}
		p.closedOwing(o, pkt)
		return
	}
	if o.opens != nil && o.opens.retried {
		pkt = p.openedInTheEnd(o, pkt)
	} else {
		p.heed(o, pkt)
	}
	if f := o.subject(); f != nil && (o.kind == write || o.kind == modify) {
		if o.sizes && statusError(pkt) == nil {
			f.sizedTo(o)
		}
		pkt = f.collect(pkt)
	}
	p.deliver(o, pkt)
}

// heed notes what an answer says of files and directories.
func (p *Proxy) heed(o *op, pkt *packet) {
	switch typ := pkt.typ(); {
	case o.opens != nil && typ == typHandle:
		if h, err := parseString(pkt.body()); err == nil {
			p.watch(o.opens, h)
		}
	case o.lists != nil && typ == typHandle:
		if h, err := parseString(pkt.body()); err == nil && p.cfg.Early > 0 {
			p.walk.opened(o.lists, h)
		}
	case o.dir != nil && typ == typName:
		p.walk.listed(o.dir, pkt.body(), uint64(p.cfg.Early))
	case o.about != nil && o.on != p.first && !o.about.writes && typ == typAttrs:
		o.about.base, _ = parseView(pkt.body())
	case o.file == nil:
	case o.kind == read && typ == typData:
		got := len(pkt.body()) - 4
		o.file.read += int64(got)
		p.placing.bytes += int64(got)
		if o.file.shortRead(o, uint64(max(got, 0))) {
			p.walk.length = uint32(o.end)
		}
	case o.kind == write && typ == typStatus:
		if code, _, err := parseStatus(pkt.body()); err == nil && code == statusOK {
			o.file.done(o)
		} else {
			o.file.mendable = false
			p.leaveAlone(o.file, "a write failed before the file was striped")
		}
	}
}

// deliver gives the client its answer, those to READs and WRITEs of one file in the order of the requests. SFTP does not ask for that, but OpenSSH's
// clients since 9.0 do: after a copy in place, which scp's are, they cut the file where the first answer out of order came.
func (p *Proxy) deliver(o *op, pkt *packet) {
	pkt.setID(o.id)
	p.done(o)
	if o.closes && o.file != nil && o.file == p.batch.file {
		p.batch.ready = statusError(pkt) == nil
	}
	p.letGo(o)
	f := o.file
	if f == nil || o.closes || len(f.turn) == 0 {
		p.toClient.put(pkt)
		return
	}
	o.answer = pkt
	p.early += len(pkt.bytes())
	for len(f.turn) > 0 && f.turn[0].answer != nil {
		next := f.turn[0]
		p.early -= len(next.answer.bytes())
		p.toClient.put(next.answer)
		next.answer, f.turn[0] = nil, nil
		f.turn = f.turn[1:]
	}
}
