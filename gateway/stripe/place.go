package stripe

import (
	"bytes"
	"cmp"
	"fmt"
	"time"
)

const (
	company   = 3 // requests under way beside which a file is opened in company
	minOpened = 8 // files opened in company before further lanes are worth it
	lull      = 2 * time.Second

	maxTaken = 8 // OPENs of files that were there already, until no more are tried as if they were not
	maxWaits = 8 // files and requests by name that had to wait for what is on another lane, until no more files are placed; more if many more were placed
)

// readAndWritten is why a file that was placed is never striped.
const readAndWritten = "read and written"

// placing is a client that has many small files under way at a time: it waits for the lane and not for round trips. Each file that it opens is placed on a
// lane, with everything that is asked about its handle.
type placing struct {
	opened int       // files opened in company since the last lull
	bytes  int64     // read or written since
	last   time.Time // when one was opened, or something done with several
	placed int       // files on further lanes
	waits  int       // files and requests by name that waited for what is on another lane
	taken  int       // files that could not be made, as the name was taken
	moved  bool      // names have come to mean other files, or may have: they do not tell files apart any more
	waited *packet   // the request that was counted last: it is looked at again until it can be taken
}

// keepCompany notes how much the client has under way when it asks for o.
func (p *Proxy) keepCompany(o *op) {
	w := &p.placing
	switch {
	case o.opens != nil && (p.accompanied() || o.kind == create): // even if all that it came with has been answered while it waited
		if time.Since(w.last) > lull {
			w.opened, w.bytes = 0, 0
		}
		w.last = time.Now()
		w.opened++
	case o.opens == nil && p.accompanied() && len(p.files) >= company: // files of 100 KiB are under way for longer than a lull
		w.last = time.Now()
	}
	if o.kind == write && o.end-o.off <= maxPacket {
		w.bytes += int64(o.end - o.off)
	}
}

// noteWait counts a request that waits because files were placed; for each open file that it has to do with it is counted once. The first files of a crowd are
// not placed, may be written in many pieces, and wait for the OPENs of the next ones as these do for them.
func (p *Proxy) noteWait(o *op, pkt *packet) {
	if p.placing.waited == pkt {
		return
	}
	for _, b := range p.outstanding {
		if !o.conflicts(b) || !o.pinned || !b.pinned {
			continue
		}
		p.placing.waited = pkt
		f := cmp.Or(o.bound(), b.bound())
		if f == nil || !f.waited {
			p.placing.waits++
		}
		if f != nil {
			f.waited = true
		}
		return
	}
}

// crowded reports whether the client has so much under way in small files that further lanes are worth it.
func (p *Proxy) crowded() bool {
	w := &p.placing
	return p.off == "" && p.clientEnded == nil && !p.tooManyWaits() && (w.opened >= minOpened && w.bytes >= p.cfg.Bulk || p.cfg.eager && w.opened > 0)
}

func (p *Proxy) tooManyWaits() bool { return p.placing.waits > maxWaits+p.placing.placed/8 }

// place chooses a lane for an OPEN.
//
// One for reading goes to the least busy lane, if nothing that is under way could change what it finds; else to the first as it came.
//
// One that may make a file for writing is tried as one that must make it (openExcl). If that succeeds the file is fresh: no other handle and no other
// name leads to it, so that what is done with it needs no order with what is done elsewhere. If it does not, the OPEN is done as it came, in its turn.
// That is so before further lanes are there, too: when they are, what is open is known to be fresh.
func (p *Proxy) place(o *op) {
	q := o.opens
	if q == nil || !p.mayPlace(q) {
		return
	}
	l := p.leastBusy()
	switch {
	case q.flags == openRead && l != p.first && !p.foresees(o):
		o.on = l
		if p.blocked(o) {
			o.on = p.first
		}
	case q.makes() && !p.placing.moved && p.placing.taken < maxTaken:
		o.on, o.kind, o.sizes = l, create, false
	}
}

func (p *Proxy) mayPlace(q *opening) bool {
	recently := p.placing.opened >= minOpened && time.Since(p.placing.last) <= lull
	return p.off == "" && p.version != nil && p.cfg.MaxLanes > 1 && !p.tooManyWaits() && len(p.files) < maxFiles &&
		(p.accompanied() || recently) && plain(q.path)
}

// accompanied reports whether the client has so much under way that what it opens now is opened in company.
func (p *Proxy) accompanied() bool { return len(p.outstanding) >= company || p.cfg.eager }

// makes reports whether an OPEN makes a file for writing if there is none, and takes the one that is there if there is.
func (o *opening) makes() bool {
	return o.flags&^(openTrunc|openRead) == openWrite|openCreate && o.writable
}

// vouch asks a further lane and the first one where they are. What is placed on a lane is not compared file by file, as what is striped is.
func (p *Proxy) vouch(l *lane) {
	var seen [2][]byte
	left := 4
	for i, at := range []*lane{p.first, l} {
		hear := func(note func(pkt *packet) []byte) func(*packet, error) {
			return func(pkt *packet, err error) {
				if err == nil {
					seen[i] = append(seen[i], note(pkt)...)
				}
				if left--; left == 0 && len(seen[0]) > 0 {
					l.vouched = bytes.Equal(seen[0], seen[1])
					p.cfg.Log.Debug("a lane was looked at", "lane", l.number, "takes_files", l.vouched)
				}
			}
		}
		p.ask(at, func(id uint32) []byte { return newNamed(typRealpath, id, []byte(".")) }, hear(func(pkt *packet) []byte { return pkt.body() }))
		p.ask(at, func(id uint32) []byte { return newNamed(typStat, id, []byte(".")) }, hear(func(pkt *packet) []byte {
			v, err := viewOf(pkt, nil)
			return fmt.Append(nil, v.mode, v.uid, v.gid, err)
		}))
	}
}

// leastBusy returns the lane with the least to do, counting what the files on it are likely to bring.
func (p *Proxy) leastBusy() *lane {
	best, least := p.first, p.busyness(p.first)
	for _, l := range p.more {
		if b := p.busyness(l); l.vouched && b < least {
			best, least = l, b
		}
	}
	return best
}

func (p *Proxy) busyness(l *lane) int {
	sum := 0
	for _, o := range l.pending {
		sum += 64
		if o.kind == read || o.kind == write {
			sum += int(min(o.end-o.off, maxPacket))
		}
		if o.opens != nil {
			sum += 32 << 10
		}
	}
	for _, f := range p.files {
		if f.home == l {
			sum += 16 << 10
		}
	}
	return sum
}

// placedOpen takes the answer to an OPEN that was placed. A refusal is asked for again, where the server keeps the order.
func (p *Proxy) placedOpen(o *op, pkt *packet) {
	h, ok := parseHandle(pkt)
	if !ok {
		pkt.release()
		if o.kind == create {
			p.placing.taken++
		}
		p.openAgain(o)
		return
	}
	p.tried(o)
	if o.on != p.first {
		p.placing.placed++
	}
	f := p.watchRenamed(o, h)
	f.fresh = o.kind == create
	pkt.release()
	p.deliver(o, made(finish(appendString(begin(nil, typHandle, o.id), f.handle))))
}

// openedInTheEnd notes what an OPEN gives that was done again, and returns what the client is given. That is never the server's handle: a CLOSE that the client
// sent later may have given that back just before, and a client to which a server answers in order takes the two for one.
func (p *Proxy) openedInTheEnd(o *op, pkt *packet) *packet {
	h, ok := parseHandle(pkt)
	if !ok {
		return pkt
	}
	f := p.watchRenamed(o, h)
	pkt.release()
	return made(finish(appendString(begin(nil, typHandle, o.id), f.handle)))
}

// watchRenamed notes a file that the server of o's lane knows under a handle, and the client under one of the proxy's own.
func (p *Proxy) watchRenamed(o *op, handle []byte) *file {
	f := p.newFile(o.opens, p.newHandle())
	f.there, f.renamed, f.home = bytes.Clone(handle), true, o.on
	if o.opens.flags&openRead != 0 && f.writes {
		f.off = readAndWritten
	}
	return f
}

// openAgain does an OPEN on the first lane. One that may change files waits until nothing from before it is under way that could see that; the client's next
// requests wait behind it.
func (p *Proxy) openAgain(o *op) {
	o.on, o.opens.retried = p.first, true
	for _, w := range o.seenBy {
		w.stale = true
	}
	if o.kind == create {
		o.kind, o.sizes = modify, o.opens.flags&openTrunc != 0
	}
	p.late = append(p.late, o)
	p.sendLate()
}

// sendLate sends the OPENs that are to be done again.
func (p *Proxy) sendLate() {
	kept := p.late[:0]
	for _, o := range p.late {
		if p.notYet(o) {
			kept = append(kept, o)
			continue
		}
		p.expect(o)
		p.resend(o)
	}
	clear(p.late[len(kept):])
	p.late = kept
}

// countOn notes the OPENs on which a STAT counts. If one of them does not make a file after all, it may empty the one that the STAT is about, under another name.
// The STAT is not made to wait for that, but its answer is.
func (p *Proxy) countOn(o *op) {
	if !o.stats {
		return
	}
	for _, b := range p.outstanding {
		if b.kind == create && b.opens.flags&openTrunc != 0 {
			b.seenBy = append(b.seenBy, o)
			o.trials++
		}
	}
}

// tried passes on the answers that were waiting for o, an OPEN that has made a file, or has been done as it came.
func (p *Proxy) tried(o *op) {
	for _, w := range o.seenBy {
		w.trials--
		if pkt := w.answer; pkt != nil && w.trials == 0 {
			w.answer = nil
			if !p.mayBeStale(w, pkt) {
				p.deliver(w, pkt)
			}
		}
	}
	o.seenBy = nil
}

// mayBeStale keeps the answer to a STAT that counts on OPENs, and asks again where it has counted in vain.
func (p *Proxy) mayBeStale(o *op, pkt *packet) bool {
	switch {
	case o.trials > 0:
		o.answer = pkt
	case o.stale:
		o.stale = false
		pkt.release()
		p.resend(o)
	default:
		return false
	}
	return true
}

// resend does a request that was kept on the first lane.
func (p *Proxy) resend(o *op) {
	pkt := made(o.pkt.bytes())
	if f := o.bound(); f != nil {
		pkt = f.addressed(o, pkt)
	}
	id := p.freeID(p.first, o.id)
	pkt.setID(id)
	p.send(p.first, o, id, pkt)
}
