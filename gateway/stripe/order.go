package stripe

import "time"

// kind is what a request may see or change, which decides what it may overtake.
type kind int

const (
	neutral kind = iota // neither: CLOSE of a file that was not written over several lanes
	query               // sees files, changes none
	read                // sees a range of a file
	write               // changes a range of a file
	create              // makes a file, or does nothing
	modify              // may see and change everything
)

// op is a request under way: one of the client's, or one of our own.
type op struct {
	kind   kind
	id     uint32 // the client's
	file   *file  // nil if the request is not on a watched file
	off    uint64 // of read and write
	end    uint64
	pinned bool  // goes to one lane as it came, where the server keeps the order
	on     *lane // that lane: the first, or the one on which the file was placed
	sent   bool  // is on a lane
	zero   bool  // striped, but to be done on the first lane: another one refused
	closes bool  // a CLOSE of file
	unheld bool  // has a handle that is not watched, perhaps one that was closed a moment ago
	trims  bool  // an FSETSTAT of about that sets the size alone: to end
	early  bool  // goes to the first lane, and the client has been answered before the lane has
	blind  bool  // was sent before its file was open; see blind.go
	about  *file // what an FSTAT, FSETSTAT or fsync@openssh.com is about, or an early OPEN; nil if the file is not watched
	opens  *opening
	lists  []byte     // the path of an OPENDIR
	dir    *directory // of a READDIR
	path   []byte     // that a request by name is about; nil if it may be about others, too, as names have been moved
	makes  bool       // a MKDIR
	stats  bool       // a STAT or LSTAT
	trials int        // OPENs before this STAT of which it is not known yet whether they have emptied the file that it is about
	stale  bool       // one did when the STAT had been sent
	seenBy []*op      // STATs that are counting on this OPEN
	calls  *file      // placed, and named by its handle in a request that only the first lane can be asked
	mute   bool       // has no id, or none that will be answered
	sizes  bool       // may change the size of any file
	moves  bool       // may give a name to another file
	gives  []byte     // the handle that a CLOSE on the first lane gives back
	pkt    *packet    // a WRITE that is striped or blind, or anything that was placed, kept until it is answered
	kept   int        // how much of Proxy.kept it is
	nth    uint64     // of the client's requests
	cost   int        // bytes it counts in its lane's window
	at     time.Time  // when it was put on its lane

	own   func(*packet, error) // for the answer to a request of our own; the packet is nil when the lane is gone
	chunk *chunk               // read ahead

	answer *packet // waits for the answers to earlier requests on the file
	place  int     // in Proxy.outstanding
}

// opening is what an OPEN asked for.
type opening struct {
	path     []byte
	flags    uint32
	writable bool     // its owner may write the file, should it be made
	retried  bool     // it was placed and refused, and has been asked for again, behind requests that came later
	nameless bool     // names have been moved meanwhile: path may stand for another file by now
	closed   [][]byte // handles that were closed meanwhile: the one that it gives may be among them
}

// conflicts reports whether o, which came later, and b must keep their order and nothing else sees to it. SFTP lets a server answer in any order "as long as the results
// are the same as if it were one after the other" (section 3); with several servers at work this is the place that keeps the promise.
//
// Files are not told apart here but for those that the client has just made, see apart: two names may mean one file, and version 3 has no way to ask.
// Ranges of different files that happen to overlap therefore wait for each other.
func (o *op) conflicts(b *op) bool {
	if o.follows(b) {
		return false
	}
	if o.file != nil && o.file == b.file && (o.closes || b.closes) {
		return true
	}
	if b.closes && !b.pinned && o.pinned { // b may not have reached the first lane yet, and o must not get there before it
		return true
	}
	if o.apart(b) {
		return false
	}
	first, last := min(o.kind, b.kind), max(o.kind, b.kind)
	switch {
	case first == neutral: // there are servers where an open file can be neither removed nor renamed
		return b.closes && o.moves
	case last >= create:
		return true
	case last != write:
		return false
	case first == query:
		return true
	default:
		return o.off < b.end && b.off < o.end || o.reveals(b) || b.reveals(o)
	}
}

// reveals reports whether o, a WRITE behind what b reads, may make the file longer than b finds it to be: b gets zeros then, or the end of the file.
func (o *op) reveals(b *op) bool {
	return o.kind == write && b.kind == read && b.end <= o.off && (b.file == nil || b.end > max(b.file.size, b.file.base.size))
}

// follows reports whether the server keeps o behind b, as both go to one lane. What was placed may be done again elsewhere, later than its turn: then the
// order is kept within a file only, and there between requests of which it makes no difference if they have been done before.
func (o *op) follows(b *op) bool {
	if !o.pinned || !b.pinned || o.on != b.on {
		return false
	}
	if b.on.number == 0 && b.kind != create && b.trials == 0 && !b.stale {
		return true
	}
	f := o.bound()
	return f != nil && f == b.bound() && (o.closes || b.closes || (o.kind >= write) == (b.kind >= write))
}

// mustWait reports whether o conflicts with a request that is under way.
func (p *Proxy) mustWait(o *op) bool {
	if p.verifying > 0 && (o.kind == write || o.kind == modify) || o.closes && o.file != nil && o.file.checking {
		return true
	}
	if p.awaitsEarly(o) || p.awaitsTail(o) || p.awaitsForeseen(o) || p.mending() {
		return true
	}
	return p.awaitsHome(o) || len(p.late) > 0 || o.moves && p.lingering > 0 || p.blocked(o)
}

// blocked reports whether o, a new request, conflicts with one that is under way.
func (p *Proxy) blocked(o *op) bool {
	for _, other := range p.outstanding {
		if o.conflicts(other) {
			return true
		}
	}
	return false
}

// notYet reports whether o, an OPEN that is to be done again, conflicts with a request from before it. What came later and could see it waits for it.
func (p *Proxy) notYet(o *op) bool {
	for _, other := range p.outstanding {
		if other.nth < o.nth && o.conflicts(other) {
			return true
		}
	}
	return false
}

func (p *Proxy) begin(o *op) {
	p.begun++
	o.nth = p.begun
	o.place = len(p.outstanding)
	p.outstanding = append(p.outstanding, o)
}

func (p *Proxy) done(o *op) {
	last := len(p.outstanding) - 1
	moved := p.outstanding[last]
	p.outstanding[o.place] = moved
	moved.place = o.place
	p.outstanding[last] = nil
	p.outstanding = p.outstanding[:last]
}

// changing reports whether a request is under way that may change files.
func (p *Proxy) changing() bool {
	for _, o := range p.outstanding {
		if o.kind >= write {
			return true
		}
	}
	return false
}

// underWay reports whether a request of the client's about f is unanswered.
func (p *Proxy) underWay(f *file) bool {
	for _, o := range p.outstanding {
		if o.subject() == f {
			return true
		}
	}
	return false
}

// busy reports whether requests of the client's on f are on a lane.
func (p *Proxy) busy(f *file) bool {
	for _, o := range p.outstanding {
		if o.file == f && (o.pinned || o.sent) {
			return true
		}
	}
	return false
}
