package stripe

import (
	"errors"
	"fmt"
	"math"
	"time"
)

// closing is a striped file's CLOSE under way.
type closing struct {
	op     *op
	file   *file
	pkt    *packet // the client's request
	left   int     // answers awaited
	answer *packet // the first lane's
	err    error   // what to tell instead
}

// closeFile compares what the lanes see, closes the file on all of them, and answers for all.
func (p *Proxy) closeFile(o *op, pkt *packet) {
	f := o.file
	delete(p.files, string(f.handle))
	p.dropChunks(f)
	p.release(f)
	f.off = "closed"
	c := &closing{op: o, file: f, pkt: pkt}
	var on []*attachment
	for _, a := range f.on {
		if a.verified {
			on = append(on, a)
		}
	}
	p.compare(f, on, comparison{}, func(v comparison) {
		if p.first.gone {
			return
		}
		c.err = p.judge(f, v)
		if at, ok := f.gap(math.MaxUint64); ok && c.err == nil {
			p.truncate(p.first, f, at, func(err error) {
				c.err = errors.Join(c.err, err)
			})
		}
		p.closeEverywhere(c)
	})
}

// judge decides whether the file can be as the client believes it is.
//
// A lane that wrote into another file than the first one's leaves this one shorter or older than the lane says. A file that something else keeps
// changing cannot be judged: for a reader that is no news, for a writer it is a failure.
func (p *Proxy) judge(f *file, v comparison) error {
	switch {
	case v.err != nil:
		return fmt.Errorf("%s cannot be checked after its transfer: %w", f.path, v.err)
	case f.doubt != "":
		return f.doubted()
	case f.writes && f.lostLane && v.first.size < f.acked:
		return fmt.Errorf("%s may be damaged: a lane was lost, and the file is shorter than what was written; transfer it again", f.path)
	case len(v.differ) == 0:
		return nil
	case v.changes && !f.writes:
		p.cfg.Log.Info("a file changed while it was read", "path", string(f.path))
		return nil
	default:
		return fmt.Errorf("%s may be damaged: the lanes that carried it see different files; transfer it again", f.path)
	}
}

// doubted is why the file may be wrong, in a sentence for the client; nil if there is no reason.
func (f *file) doubted() error {
	if f.doubt == "" {
		return nil
	}
	return fmt.Errorf("%s may be damaged: %s; transfer it again", f.path, f.doubt)
}

// closeEverywhere closes the file on every lane. A server reports late failures of writing (a quota, a network disk) at CLOSE, so those of a written
// file are waited for.
func (p *Proxy) closeEverywhere(c *closing) {
	f := c.file
	c.left = 1
	if f.writes {
		c.left += len(f.on)
	}
	for _, a := range f.on {
		if a.handle == nil {
			p.abandonOpening(a)
			if f.writes {
				c.left--
			}
			continue
		}
		p.closeOn(a, func(pkt *packet, err error) {
			if !f.writes {
				return
			}
			if err == nil {
				if code, _, bad := parseStatus(pkt.body()); pkt.typ() != typStatus || bad != nil || code != statusOK {
					c.err = errors.Join(c.err, fmt.Errorf("%s could not be closed after writing: %s", f.path, refusal(pkt)))
				}
			}
			p.closed(c)
		})
	}
	id := p.freeID(p.first, c.op.id)
	c.pkt.setID(id)
	p.send(p.first, &op{own: func(pkt *packet, err error) {
		if err == nil {
			pkt.hold()
			c.answer = pkt
			p.closed(c)
		}
	}}, id, c.pkt)
}

// closed counts an answer, and gives the client its own with the last.
func (p *Proxy) closed(c *closing) {
	if c.left--; c.left > 0 || c.answer == nil {
		return
	}
	p.report(c.file, c.err)
	if c.err != nil {
		c.answer.release()
		p.cfg.Log.Warn("a striped transfer failed its check", "path", string(c.file.path), "reason", c.err)
		c.answer = made(newStatus(c.op.id, statusFailure, c.err.Error()))
	}
	p.deliver(c.op, c.answer)
}

func (p *Proxy) report(f *file, err error) {
	if f.striped {
		p.cfg.OnTransfer(Transfer{Path: string(f.path), Read: f.read, Written: f.written, Lanes: f.most, Err: err})
	}
}

// gap returns where a file that was written from one end to the other has its first hole, if something was written behind it: there it must be cut.
// One server alone would have left what comes before the hole, and clients resume an upload at the size they find.
// undone is the start of the nearest write without an answer.
func (f *file) gap(undone uint64) (at uint64, ok bool) {
	if f.holed() {
		return f.debt.hole, true
	}
	at = min(f.failed, undone)
	return at, f.striped && f.writes && f.inOrder && at < max(f.acked, f.refused) && at >= f.base.size
}

// cutAhead cuts f at its hole before its size is set, which scp does at the end of every upload, of a failed one too: one server alone would then have zeros
// behind the first WRITE that failed.
func (p *Proxy) cutAhead(f *file) {
	if at, ok := f.gap(math.MaxUint64); ok && !f.holed() {
		p.truncate(p.first, f, at, func(error) {}) // it goes before the request that sets the size; what it fails of is logged
	}
}

// truncate cuts f at size.
func (p *Proxy) truncate(l *lane, f *file, size uint64, then func(error)) {
	p.cfg.Log.Info("cutting a file where its upload has a hole", "path", string(f.path), "size", size)
	p.ask(l, func(id uint32) []byte { return newTruncate(id, f.handleOn(l), size) }, func(pkt *packet, err error) {
		if err == nil {
			err = statusError(pkt)
		}
		if err != nil {
			err = fmt.Errorf("%s has a hole and could not be cut there: %w", f.path, err)
			p.cfg.Log.Warn("an upload left a hole", "path", string(f.path), "reason", err)
		}
		then(err)
	})
}

// statusError is nil for an answer that says that all went well.
func statusError(pkt *packet) error {
	if code, _, err := parseStatus(pkt.body()); pkt.typ() != typStatus || err != nil || code != statusOK {
		return errors.New(refusal(pkt))
	}
	return nil
}

// mendAll cuts every file that is left with a hole by a client that went without closing it.
func (p *Proxy) mendAll(l *lane) {
	for _, f := range p.files {
		if at, ok := f.gap(math.MaxUint64); ok {
			p.truncate(l, f, at, func(error) {})
		}
	}
}

// leaveNoGaps is the last thing before the lanes close: writes that are under way are given a moment, those of a lost first lane go to others, and a file
// that still has a hole is cut there.
func (p *Proxy) leaveNoGaps() {
	if p.first.gone {
		p.abandon(p.first)
	}
	limit := time.NewTimer(lastWords)
	defer limit.Stop()
	p.untilLast(limit.C, func() bool { return !p.writing() })
	asked := 0
	for _, f := range p.files {
		at, ok := f.gap(p.undone(f))
		l := p.anyLane(f)
		if !ok || l == nil {
			continue
		}
		asked++
		p.truncate(l, f, at, func(error) { asked-- })
	}
	p.untilLast(limit.C, func() bool { return asked == 0 })
}

// untilLast listens to the lanes until done, the limit, or the last of them has gone.
func (p *Proxy) untilLast(limit <-chan time.Time, done func() bool) {
	for !done() && (!p.first.gone || len(p.more) > 0) {
		p.schedule()
		select {
		case ev := <-p.fromLanes:
			p.fromLane(ev)
		case <-limit:
			return
		}
	}
}

// writing reports whether striped writes are unanswered.
func (p *Proxy) writing() bool {
	for _, o := range p.outstanding {
		if o.kind == write && (!o.pinned || o.early) {
			return true
		}
	}
	return false
}

// undone returns the start of the nearest striped write of f without an answer.
func (p *Proxy) undone(f *file) uint64 {
	at := uint64(math.MaxUint64)
	for _, o := range p.outstanding {
		if o.file == f && o.kind == write && !o.pinned {
			at = min(at, o.off)
		}
	}
	return at
}

// anyLane returns a lane that has f open.
func (p *Proxy) anyLane(f *file) *lane {
	if !p.first.gone {
		return p.first
	}
	for _, a := range f.on {
		if a.verified {
			return a.lane
		}
	}
	return nil
}
