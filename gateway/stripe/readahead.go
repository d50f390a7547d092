package stripe

import "time"

// inARow is how many READs must have followed each other before reading ahead.
const inARow = 4

// chunk is a part of a file that was read, or is being read, before the client asked.
type chunk struct {
	file  *file
	op    *op
	pkt   *packet   // nil until it is there
	since time.Time // it is there
	stale bool      // something may have changed since it was asked for
}

func (c *chunk) size() int { return int(c.op.end - c.op.off) }

// readAhead uses room on the lanes that the client leaves, for files that are read from one end to the other.
// It stops before the end of the file as it was: the last, shorter part is for the client's own READ.
func (p *Proxy) readAhead() {
	if len(p.queue) > 0 || p.ahead >= p.cfg.ReadAhead || p.clientEnded != nil || p.off != "" || p.held != nil || p.changing() {
		return
	}
	for _, f := range p.files {
		if !f.striped || f.writes || f.run < inARow || f.length == 0 {
			continue
		}
		for f.ahead+uint64(f.length) <= f.base.size && p.ahead+int(f.length) <= p.cfg.ReadAhead {
			o := &op{kind: read, file: f, off: f.ahead, end: f.ahead + uint64(f.length)}
			l := p.laneFor(o)
			if l == nil {
				break
			}
			o.chunk = &chunk{file: f, op: o}
			if f.chunks == nil {
				f.chunks = map[uint64]*chunk{}
			}
			f.chunks[o.off] = o.chunk
			f.ahead = o.end
			p.ahead += o.chunk.size()
			o.id = p.freshID(l)
			p.put(l, o)
		}
	}
}

// fromAhead answers o from what was read ahead, or ties it to the request that is under way for it.
func (p *Proxy) fromAhead(o *op) bool {
	f := o.file
	if f.run <= 1 && len(f.chunks) > 0 {
		p.dropChunks(f) // the client went elsewhere
		f.ahead = o.end
	}
	c := f.chunks[o.off]
	if c == nil {
		return false
	}
	if c.op.end != o.end || c.pkt != nil && time.Since(c.since) > p.cfg.fresh {
		p.dropChunk(c)
		return false
	}
	delete(f.chunks, o.off)
	p.ahead -= c.size()
	if c.pkt != nil {
		f.read += int64(c.size())
		p.deliver(o, c.pkt)
		return true
	}
	p.done(o)
	c.op.chunk, c.op.id = nil, o.id
	p.begin(c.op)
	f.turn[len(f.turn)-1] = c.op // in o's place, which was the last to come
	return true
}

// aheadAnswered keeps an answer for the client, if it is the full one and nothing changed since.
func (p *Proxy) aheadAnswered(o *op, pkt *packet) {
	c := o.chunk
	if pkt.typ() != typData || len(pkt.body()) != 4+c.size() {
		p.dropChunk(c)
	}
	if c.stale {
		pkt.release()
		return
	}
	c.pkt, c.since = pkt, time.Now()
}

// dropChunk forgets a part that was read ahead; if it is still under way its answer will be thrown away.
func (p *Proxy) dropChunk(c *chunk) {
	if c.stale {
		return
	}
	c.stale = true
	delete(c.file.chunks, c.op.off)
	p.ahead -= c.size()
	if c.pkt != nil {
		c.pkt.release()
	}
}

func (p *Proxy) dropChunks(f *file) {
	for _, c := range f.chunks {
		p.dropChunk(c)
	}
	f.ahead = f.next
}
