package stripe

import (
	"errors"
)

// verify compares what the lanes that have opened f see with what the first lane sees. A file that is written stands still meanwhile, so that lanes
// which come one by one are compared once they double what there is, or no more are to come.
func (p *Proxy) verify(f *file) {
	fresh, awaited := f.unverified()
	few := len(fresh) < 1+len(f.on)-len(fresh)-awaited
	if len(fresh) == 0 || f.writes && few && awaited+p.opening > 0 {
		p.release(f)
		return
	}
	if f.writes {
		if !f.holding {
			f.holding = true
			p.verifying++
		}
		if p.busy(f) {
			return
		}
	}
	f.checking = true
	p.compare(f, fresh, comparison{}, func(c comparison) { p.verified(f, fresh, c) })
}

// unverified returns the attachments that are to be compared, and counts those of lanes that have not answered the OPEN.
func (f *file) unverified() (fresh []*attachment, awaited int) {
	for _, a := range f.on {
		switch {
		case a.handle == nil:
			awaited++
		case !a.verified:
			fresh = append(fresh, a)
		}
	}
	return fresh, awaited
}

// release lets requests that change files go on after a comparison.
func (p *Proxy) release(f *file) {
	if f.holding {
		f.holding = false
		p.verifying--
	}
}

// verified hears the outcome of a comparison.
func (p *Proxy) verified(f *file, fresh []*attachment, c comparison) {
	f.checking = false
	p.release(f)
	if c.err != nil {
		p.leaveAlone(f, c.err.Error())
		return
	}
	for _, a := range fresh {
		if f.attached(a.lane) != a {
			continue
		}
		if !c.agrees(a) || f.off != "" {
			p.detach(f, a)
			continue
		}
		a.verified = true
		if !f.striped {
			f.striped, f.base, f.acked = true, c.first, 0
		}
	}
	if len(c.differ) > 0 {
		p.leaveAlone(f, "a further lane opened another file under the same name, or the file is changing")
	}
	if f.striped && f.most < 1+len(f.on) {
		f.most = 1 + len(f.on)
		p.cfg.Log.Debug("striping a file", "path", string(f.path), "lanes", f.most, "write", f.writes)
	}
}

// comparison is what several lanes see of one file.
type comparison struct {
	round   int
	first   view
	err     error // the first lane's view could not be had
	changes bool  // the first lane's view changed meanwhile
	differ  []*attachment
}

func (c *comparison) agrees(a *attachment) bool {
	for _, d := range c.differ {
		if d == a {
			return false
		}
	}
	return true
}

// compare asks the first lane and those of on what they see, several times if they differ: something else may be changing the file between one answer
// and the next. A lane that is lost meanwhile does not count.
func (p *Proxy) compare(f *file, on []*attachment, before comparison, then func(comparison)) {
	c := comparison{round: before.round + 1, changes: before.changes}
	views := make([]view, len(on))
	errs := make([]error, len(on))
	left := 1 + len(on)
	answered := func() {
		if left--; left > 0 {
			return
		}
		c.changes = c.changes || before.round > 0 && c.first != before.first
		for i, a := range on {
			if errors.Is(errs[i], errLaneGone) {
				f.leave(a.lane)
				continue
			}
			if errs[i] != nil || views[i] != c.first {
				c.differ = append(c.differ, a)
			}
		}
		if len(c.differ) > 0 && c.round < maxRounds && c.err == nil {
			p.compare(f, c.differ, c, then)
			return
		}
		then(c)
	}
	fstat := func(handle []byte) func(uint32) []byte {
		return func(id uint32) []byte { return newOnHandle(typFstat, id, handle) }
	}
	for i, a := range on {
		p.ask(a.lane, fstat(a.handle), func(pkt *packet, err error) {
			views[i], errs[i] = viewOf(pkt, err)
			answered()
		})
	}
	p.ask(p.first, fstat(f.there), func(pkt *packet, err error) {
		c.first, c.err = viewOf(pkt, err)
		answered()
	})
}

// viewOf reads the answer to an FSTAT.
func viewOf(pkt *packet, err error) (view, error) {
	switch {
	case err != nil:
		return view{}, err
	case pkt.typ() != typAttrs:
		return view{}, errors.New("the machine does not describe the file: " + refusal(pkt))
	}
	return parseView(pkt.body())
}
