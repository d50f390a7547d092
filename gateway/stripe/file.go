package stripe

import (
	"bytes"
	"context"
	"errors"
	"math"
)

var errUnclosed = errors.New("stripe: the stream ended before the file was closed")

// span is a range of a file.
type span struct{ off, end uint64 }

// file is an open file that may be worth striping: opened for reading or for writing alone, and not for appending.
type file struct {
	path    []byte
	handle  []byte // the client's
	there   []byte // the server's: the same, but for a file whose OPEN was answered early or placed
	home    *lane  // that gave it: the first, or where the file was placed
	renamed bool   // it is another
	writes  bool

	bulk    int64 // Config.Bulk
	asked   int64 // bytes the client asked for or gave
	next    uint64
	run     int  // requests in a row that began where the one before ended
	inOrder bool // all of them did

	known    bool   // the first lane says it is a regular file
	size     uint64 // and how long it is
	inquired bool
	off      string // why no further lane opens it
	on       []*attachment
	striped  bool  // further lanes have it
	checking bool  // views are being compared
	holding  bool  // counted in Proxy.verifying
	turn     []*op // READs and WRITEs in the order the client sent them, until their answers have been passed on
	base     view  // when it was first striped
	most     int   // lanes that had it at a time

	read, written int64
	acked         uint64 // end of the farthest write that was confirmed while striped
	failed        uint64 // start of the nearest that was refused; MaxUint64 if none was
	refused       uint64 // start of the farthest: a part of it may have been written
	lost          []span // writes that a lost lane may still carry out
	lostLane      bool
	doubt         string // why the file may be wrong

	fresh    bool   // made by its OPEN: no file that was open before is the same one
	nameless bool   // names have been moved since it was opened
	homing   bool   // is to be opened on the first lane, or being so; nothing is asked about it meanwhile
	moving   bool   // is being so
	stays    bool   // where it is, as the first lane could not open it
	reach    uint64 // how far the client has written it, at most
	resized  bool   // its size was set
	waited   bool   // something about it had to wait for what is on another lane
	looked   bool   // FSTAT was asked behind a READ; what it said of a placed file is its base

	mendable bool // by its name, should a WRITE fail that was answered early
	debt     debt
	tail     tail
	head     *packet // the first data, read when the file was given to the client; nil if it was not, or has gone

	chunks map[uint64]*chunk // read ahead, by offset
	ahead  uint64            // end of what was asked for or read ahead
	length uint32            // of the client's last READ
}

// attachment is a file opened on a further lane.
type attachment struct {
	lane     *lane
	handle   []byte // nil until the lane has answered
	verified bool   // its view agreed with the first lane's
	dropped  bool   // close it as soon as it is open
}

// watchable reports whether a file opened so is of the kind that may be striped, and there is room to watch it.
func (p *Proxy) watchable(o *opening) bool {
	if p.cfg.MaxLanes < 2 && p.cfg.Early <= 0 || p.off != "" || p.version == nil || len(p.files) >= maxFiles {
		return false
	}
	access := o.flags & (openRead | openWrite)
	return access != openRead|openWrite && access != 0 && o.flags&openAppend == 0 && o.flags&^openKnown == 0
}

// watch notes an open file. It returns nil if it does not.
func (p *Proxy) watch(o *opening, handle []byte) *file {
	if !p.watchable(o) || len(handle) > maxHandle {
		return nil
	}
	if p.files[string(handle)] != nil {
		p.disable("the server gave one handle twice")
		return nil
	}
	for _, closed := range o.closed {
		if bytes.Equal(closed, handle) {
			return nil
		}
	}
	f := p.newFile(o, handle)
	f.mendable = o.writable
	if p.batch.open == o {
		p.batch.file = f
	}
	return f
}

func (p *Proxy) newFile(o *opening, handle []byte) *file {
	f := &file{path: o.path, handle: bytes.Clone(handle), writes: o.flags&openWrite != 0, bulk: p.cfg.Bulk, inOrder: true, failed: math.MaxUint64, home: p.first}
	f.there = f.handle
	switch f.nameless = o.nameless; {
	case p.cfg.MaxLanes < 2:
		f.off = "there is one lane"
	case f.nameless:
		f.off = "names changed while it was being opened"
	}
	p.files[string(handle)] = f
	return f
}

// goes notes which range the client goes to.
func (f *file) goes(o *op) {
	if f == nil {
		return
	}
	if f.asked > 0 && o.off != f.next {
		f.run, f.inOrder = 0, false
	}
	f.run++
	f.asked += int64(min(o.end-o.off, maxPacket))
	f.next = o.end
}

// queues reports whether the file's READs and WRITEs go through the queue: it is striped, or may be as soon as lanes are there. What has not been sent
// by then is for all of them, and the questions of ours that decide it are not stuck behind everything the client wants.
func (f *file) queues() bool {
	return f.striped || f.off == "" && f.home.number == 0 && f.asked >= f.bulk/4
}

// sized notes that the file may be given another size by something else than its writes. A late write of a lost lane undoes that where it reaches behind the
// new end. Where it does not it does no harm, and scp sets the size at the end of every upload.
func (f *file) sized(o *op) {
	f.inOrder, f.acked, f.refused = false, 0, 0
	f.failed = math.MaxUint64
	for _, s := range f.lost {
		if !o.trims || o.about != f || s.end > o.end {
			f.doubt = "a lane was lost with writes unanswered, and the file's size was set afterwards"
		}
	}
}

// promote takes a file one step nearer to being striped, if it is worth it.
func (p *Proxy) promote(ctx context.Context, f *file) {
	if f.homing {
		p.bringHome(f)
		return
	}
	if f.off != "" || f.asked < f.curious() || f.checking {
		return
	}
	if p.off != "" || p.clientEnded != nil {
		p.release(f)
		return
	}
	switch {
	case !f.inquired:
		f.inquired = true
		p.ask(f.home, func(id uint32) []byte { return newOnHandle(typFstat, id, f.there) }, func(pkt *packet, err error) {
			p.inquired(f, pkt, err)
		})
		return
	case !f.known || !f.worth():
		return
	case f.home != p.first:
		f.homing = true
		return
	}
	p.openLanes(ctx)
	for _, l := range p.more {
		if f.attached(l) == nil {
			p.attach(f, l)
		}
	}
	p.verify(f)
}

// inquired hears what the first lane says of the file. Anything but a regular file may block a lane or answer each one differently.
func (p *Proxy) inquired(f *file, pkt *packet, err error) {
	v, err := viewOf(pkt, err)
	switch {
	case err != nil:
		p.leaveAlone(f, err.Error())
	case !v.regular():
		p.leaveAlone(f, "not a regular file")
	case !f.writes && v.size < uint64(p.cfg.Bulk):
		p.leaveAlone(f, "small")
	default:
		f.known, f.size = true, v.size
	}
}

// curious is how much of a file must have been asked for before the first lane is asked about it.
func (f *file) curious() int64 {
	if f.writes {
		return f.bulk / 4
	}
	return f.bulk / 16
}

// worth reports whether a file is worth further lanes: much of it has been asked for, or it is large and somebody reads it piece by piece from its start.
// Who looks at the kind of a file only, as file managers do, reads less.
func (f *file) worth() bool {
	return f.asked >= f.bulk || !f.writes && f.inOrder && f.size >= 4*uint64(f.bulk) && f.asked >= f.bulk/8 && f.run >= inARow
}

// leaveAlone stops f from being opened on further lanes. Those that have it keep it.
func (p *Proxy) leaveAlone(f *file, reason string) {
	if f.off != "" {
		return
	}
	f.off = reason
	if f.inquired {
		p.cfg.Log.Info("no further lane for a file", "path", string(f.path), "reason", reason)
	}
	for _, a := range append([]*attachment(nil), f.on...) {
		if !a.verified && !f.checking {
			p.detach(f, a)
		}
	}
	p.release(f)
}

func (f *file) attached(l *lane) *attachment {
	for _, a := range f.on {
		if a.lane == l {
			return a
		}
	}
	return nil
}

// attach opens f on l by the name the client gave, for reading or writing and nothing else: no creating, no truncating.
func (p *Proxy) attach(f *file, l *lane) {
	a := &attachment{lane: l}
	f.on = append(f.on, a)
	flags := uint32(openRead)
	if f.writes {
		flags = openWrite
	}
	p.ask(l, func(id uint32) []byte { return newOpen(id, f.path, flags) }, func(pkt *packet, err error) {
		if a.dropped {
			p.lingering--
		}
		if err != nil {
			f.remove(a) // the lane is gone, which a file that is being closed is not told
			return
		}
		h, ok := parseHandle(pkt)
		if !ok {
			f.remove(a)
			if !a.dropped {
				p.leaveAlone(f, "a further lane could not open it: "+refusal(pkt))
			}
			return
		}
		a.handle = append([]byte(nil), h...)
		if a.dropped {
			p.closeOn(a, func(*packet, error) {})
		}
	})
}

// detach closes f on one further lane.
func (p *Proxy) detach(f *file, a *attachment) {
	f.remove(a)
	if a.handle == nil {
		p.abandonOpening(a)
		return
	}
	p.closeOn(a, func(*packet, error) {})
}

// abandonOpening has a file closed as soon as it is open on a further lane.
func (p *Proxy) abandonOpening(a *attachment) {
	a.dropped = true
	p.lingering++
}

// closeOn closes a file where the client does not know that it is open. Until that has been answered nothing gets another name or loses its own: the file's
// space would not be free yet, and there are servers that refuse it.
func (p *Proxy) closeOn(a *attachment, then func(*packet, error)) {
	p.lingering++
	p.ask(a.lane, func(id uint32) []byte { return newOnHandle(typClose, id, a.handle) }, func(pkt *packet, err error) {
		p.lingering--
		then(pkt, err)
	})
}

func (f *file) remove(a *attachment) {
	for i, other := range f.on {
		if other == a {
			f.on = append(f.on[:i:i], f.on[i+1:]...)
			return
		}
	}
}

// leave is the loss of a lane.
func (f *file) leave(l *lane) {
	if a := f.attached(l); a != nil {
		f.lostLane = f.lostLane || a.verified
		f.remove(a)
	}
}

// forget ends the watch over a file that was not striped.
func (p *Proxy) forget(f *file) {
	delete(p.files, string(f.handle))
	p.release(f)
	f.off = "closed"
	f.dropHead()
	for _, a := range append([]*attachment(nil), f.on...) {
		p.detach(f, a)
	}
}

// inUse reports whether a file is open on l.
func (p *Proxy) inUse(l *lane) bool {
	for _, f := range p.files {
		if f.home == l || f.attached(l) != nil {
			return true
		}
	}
	return false
}

// handleOn returns the handle of f on l, nil if l may not serve it.
func (f *file) handleOn(l *lane) []byte {
	if l == f.home {
		return f.there
	}
	if a := f.attached(l); a != nil && a.verified {
		return a.handle
	}
	return nil
}

// meetsLost notes a WRITE of what a lost lane may still write.
func (f *file) meetsLost(o *op) {
	if f == nil {
		return
	}
	for _, s := range f.lost {
		if s.off < o.end && o.off < s.end {
			f.doubt = "a lane was lost with writes unanswered, and the same part was written again"
		}
	}
}

// refusal is a STATUS in words.
func refusal(pkt *packet) string {
	if pkt.typ() == typStatus {
		if _, text, err := parseStatus(pkt.body()); err == nil && text != "" {
			return string(bytes.ToValidUTF8([]byte(text), []byte("?")))
		}
	}
	return "refused"
}
