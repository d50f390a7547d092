package stripe

import (
	"bytes"
	"time"
)

const (
	minSteps    = 1 // how often the client must have opened the next file of a listing, until the one after that is opened before it asks
	maxStumbles = 3 // files that were not what they had been when they were opened, until no more are opened ahead
)

// walk is a client that reads the files of a directory one after the other, in the order in which they were listed.
type walk struct {
	listings
	last     string // the path it opened last
	steps    int    // files that came next, in a row
	length   uint32 // of the READ with which it begins
	next     *foreseen
	spare    int  // handles of ours, opened ahead, that the client does not have: 2 at most
	opening  bool // the last of them has not been answered
	asking   bool // whether the file that was opened ahead is the one that the client wants
	stumbles int
}

// foreseen is a file that was opened before the client asked for it. Nothing has been read from it.
type foreseen struct {
	path   string
	answer *packet // the server's, nil until it is there
	handle []byte
	epoch  uint64
	since  time.Time
	unused bool // close it when it is open
}

// goesTo follows the client to the file that it opens.
func (p *Proxy) goesTo(o *op) {
	w := &p.walk
	if p.cfg.Early <= 0 || o.opens == nil || o.opens.flags != openRead {
		return
	}
	path := string(o.opens.path)
	if w.steps++; w.after[w.last] != path || w.last == "" {
		w.steps = 0
	}
	w.last = path
}

// lookAhead opens the file that the client will ask for after o, if it goes on as it did. At most one is open that it has not asked for.
func (p *Proxy) lookAhead(o *op) {
	w := &p.walk
	if o.opens == nil || o.opens.flags != openRead || w.steps < minSteps || w.length == 0 || w.next != nil || w.spare > 1 || w.stumbles >= maxStumbles || p.off != "" || !p.idleBut(o) {
		return
	}
	path := w.after[w.last]
	if path == "" {
		return
	}
	n := &foreseen{path: path, epoch: p.epoch, since: time.Now()}
	w.next = n
	w.spare++
	w.opening = true
	p.startTicks()
	p.ask(p.first, func(id uint32) []byte { return newOpen(id, []byte(path), openRead) }, func(pkt *packet, err error) {
		w.opening = false
		var h []byte
		ok := err == nil
		if ok {
			h, ok = parseHandle(pkt)
		}
		if !ok {
			w.spare--
			if w.next == n {
				w.next = nil
			}
			return
		}
		pkt.hold()
		n.answer, n.handle = pkt, bytes.Clone(h)
		if n.unused {
			p.closeForeseen(n)
		}
	})
}

// idleBut reports whether the client waits for nothing but o.
func (p *Proxy) idleBut(o *op) bool {
	for _, other := range p.outstanding {
		if other != o && (!other.early || !other.closes) {
			return false
		}
	}
	return true
}

// foresees reports whether o is the OPEN of the file that was opened ahead.
func (p *Proxy) foresees(o *op) bool {
	n := p.walk.next
	return n != nil && o.opens != nil && o.opens.flags == openRead && n.path == string(o.opens.path) && n.epoch == p.epoch && p.idleBut(o) && p.off == ""
}

// misses gives up the file that was opened ahead when the client does something else than to go on to it: whatever o is but the reading of the file before.
func (p *Proxy) misses(o *op) {
	if o.file == nil && !p.foresees(o) {
		p.dropForeseen()
	}
}

func (p *Proxy) dropForeseen() {
	n := p.walk.next
	if n == nil {
		return
	}
	p.walk.next = nil
	if n.unused = true; n.answer != nil {
		p.closeForeseen(n)
	}
}

// closeForeseen closes a file that is not wanted.
func (p *Proxy) closeForeseen(n *foreseen) {
	n.answer.release()
	p.ask(p.first, func(id uint32) []byte { return newOnHandle(typClose, id, n.handle) }, func(*packet, error) { p.walk.spare-- })
}

// awaitsForeseen reports whether o must wait for a file that was opened ahead: to be open, as it is the one that o asks for; or to be closed, as there are servers
// where an open file can be neither removed nor renamed. A client that uses a handle which it no longer has must not find ours under it.
func (p *Proxy) awaitsForeseen(o *op) bool {
	p.misses(o)
	if p.walk.asking {
		return true
	}
	if p.foresees(o) {
		return p.walk.next.answer == nil
	}
	if w := &p.walk; w.opening && (o.opens != nil || o.lists != nil) {
		return true // so that the server has closed ours, and gives the client the handle that it would have given it
	}
	if o.kind != modify && !o.unheld || o.mute {
		return false
	}
	p.dropForeseen()
	return p.walk.spare > 0
}

// confirm asks whether the file that was opened ahead is still the one that its name stands for, and reads it: after the client has asked for it, so that
// the data is no older than what the client would have been given. The client gets the handle if all is as it was.
func (p *Proxy) confirm(o *op, request *packet) {
	w, n := &p.walk, p.walk.next
	w.next, w.asking = nil, true
	var named, open view
	var head *packet
	var errs [2]error
	left := 3
	answered := func() {
		if left--; left > 0 {
			return
		}
		w.asking = false
		if errs[0] != nil || errs[1] != nil || named != open || !open.regular() || !isHead(head, open, w.length) {
			w.stumbles++
			if head != nil {
				head.release()
			}
			p.closeForeseen(n)
			p.pin(o, request)
			return
		}
		request.release()
		w.spare--
		p.hidden++
		p.watch(o.opens, n.handle)
		if f := p.files[string(n.handle)]; f != nil {
			f.head = head
			f.tail = tail{size: open.size, since: time.Now(), epoch: p.epoch}
		}
		p.deliver(o, n.answer)
	}
	p.ask(p.first, func(id uint32) []byte { return newNamed(typStat, id, []byte(n.path)) }, func(pkt *packet, err error) {
		named, errs[0] = viewOf(pkt, err)
		answered()
	})
	p.ask(p.first, func(id uint32) []byte { return appendRead(nil, id, n.handle, 0, w.length) }, func(pkt *packet, err error) {
		if err == nil {
			pkt.hold()
			head = pkt
		}
		answered()
	})
	p.ask(p.first, func(id uint32) []byte { return newOnHandle(typFstat, id, n.handle) }, func(pkt *packet, err error) {
		open, errs[1] = viewOf(pkt, err)
		answered()
	})
	p.lookAhead(o)
}

// isHead reports whether pkt answers a READ of n bytes from the start of a file that looks like v.
func isHead(pkt *packet, v view, n uint32) bool {
	if pkt == nil {
		return false
	}
	if code, _, err := parseStatus(pkt.body()); pkt.typ() == typStatus {
		return err == nil && code == statusEOF && v.size == 0
	}
	data, err := parseString(pkt.body())
	return err == nil && pkt.typ() == typData && len(data) > 0 && uint64(len(data)) == min(v.size, uint64(n))
}

func (f *file) dropHead() {
	if f.head != nil {
		f.head.release()
		f.head = nil
	}
}

// fromHead answers the READ with which the client begins from what was read when the file was given to it.
func (p *Proxy) fromHead(o *op) bool {
	f := o.file
	if f == nil || f.head == nil {
		return false
	}
	head := f.head
	f.head = nil
	if o.kind != read || o.off != 0 || o.end != uint64(p.walk.length) || f.tail.epoch != p.epoch || time.Since(f.tail.since) > p.cfg.fresh || len(f.turn) > 1 {
		head.release()
		return false
	}
	f.goes(o)
	p.hidden++
	if head.typ() == typData {
		got := len(head.body()) - 4
		f.read += int64(got)
		f.shortRead(o, uint64(got))
	}
	p.deliver(o, head)
	return true
}
