package stripe

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
)

var (
	errLaneGone  = errors.New("stripe: the lane is gone")
	errOddAnswer = errors.New("stripe: an answer that fits no request")
	errStalled   = errors.New("stripe: no answer for too long")
	errOther     = errors.New("stripe: the lane's server is not the first lane's")
)

// lane is one SFTP stream to the server.
type lane struct {
	number  int
	stream  io.ReadWriteCloser
	out     *outbox
	done    chan struct{} // closed when the lane has been given up
	gone    bool
	pending map[uint32]*op
	load    int       // bytes under way
	pace    pace      // how many there may be
	heard   time.Time // last answer, or the first request after a pause
	unused  time.Time // since when it has no file
	vouched bool      // it leads to where the first one does, so that files may be placed on it
}

func newLane(number int, stream io.ReadWriteCloser, window int) *lane {
	return &lane{
		number: number, stream: stream, out: newOutbox(stream), done: make(chan struct{}), pending: map[uint32]*op{}, pace: newPace(window),
	}
}

// laneEvent is a packet from a lane, or its end.
type laneEvent struct {
	lane *lane
	pkt  *packet
	err  error
}

// start runs a lane's two goroutines.
func (p *Proxy) start(l *lane, r *bufio.Reader) {
	tell := func(ev laneEvent) bool {
		select {
		case p.fromLanes <- ev:
			return true
		case <-l.done:
			return false
		}
	}
	p.spawn(func() {
		for {
			pkt, err := readPacket(r)
			if !tell(laneEvent{lane: l, pkt: pkt, err: err}) || err != nil {
				return
			}
		}
	})
	p.spawn(func() {
		if flushed, _ := l.out.run(l.done, p.poke); flushed {
			closeWrite(l.stream)
		}
	})
}

func closeWrite(stream io.Closer) {
	if half, ok := stream.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite() // the stream's end follows, or its error does
		return
	}
	_ = stream.Close()
}

// send puts pkt on the lane as o. Its id must be free there: freeID or freshID.
func (p *Proxy) send(l *lane, o *op, id uint32, pkt *packet) {
	if len(l.pending) == 0 {
		l.heard = time.Now()
	}
	o.at = time.Now()
	if l.number == 0 && pkt.typ() == typClose {
		o.gives = bytes.Clone(firstString(pkt.body()))
	}
	l.pending[id] = o
	l.load += o.cost
	l.out.put(pkt)
}

// freeID returns id if the lane has no such request under way, else another.
func (p *Proxy) freeID(l *lane, id uint32) uint32 {
	if _, taken := l.pending[id]; taken {
		return p.freshID(l)
	}
	return id
}

func (p *Proxy) freshID(l *lane) uint32 {
	for {
		p.lastID++
		if _, taken := l.pending[p.lastID]; !taken {
			return p.lastID
		}
	}
}

// ask sends a request of our own; then gets its answer, or an error if the lane ends before. The packet is then's to read, not to keep.
func (p *Proxy) ask(l *lane, build func(id uint32) []byte, then func(*packet, error)) {
	if l.gone {
		then(nil, errLaneGone)
		return
	}
	id := p.freshID(l)
	p.send(l, &op{own: then}, id, made(build(id)))
}

// openResult is a lane that has greeted as the first one did, or the reason there is none.
type openResult struct {
	stream io.ReadWriteCloser
	r      *bufio.Reader
	err    error
}

// openLanes opens as many lanes as there may be.
func (p *Proxy) openLanes(ctx context.Context) {
	p.startTicks()
	for 1+len(p.more)+p.opening < p.cfg.MaxLanes && p.failures < maxFailures && !time.Now().Before(p.roomFrom) {
		if p.failures > 0 && p.opening > 0 {
			return // one at a time after a failure
		}
		p.opening++
		p.spawn(func() {
			stream, r, err := p.dial(ctx)
			select {
			case p.opened <- openResult{stream, r, err}:
			case <-p.over:
				if err == nil {
					_ = stream.Close()
				}
			}
		})
	}
}

// dial opens a stream and greets. A server whose greeting differs from the first one's by a byte is another server.
func (p *Proxy) dial(ctx context.Context) (io.ReadWriteCloser, *bufio.Reader, error) {
	stream, err := p.cfg.Open(ctx)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, handshake)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	r := bufio.NewReaderSize(stream, 4<<10)
	_, err = stream.Write(newInit())
	if err == nil {
		var greeting *packet
		if greeting, err = readPacket(r); err == nil {
			if !bytes.Equal(greeting.bytes(), p.version) {
				err = errOther
			}
			greeting.release()
		}
	}
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		_ = stream.Close()
		return nil, nil, fmt.Errorf("greet the SFTP server: %w", err)
	}
	return stream, r, nil
}

func (p *Proxy) laneOpened(r openResult) {
	p.opening--
	if r.err != nil {
		if errors.Is(r.err, ErrNoRoom) {
			p.roomFrom = time.Now().Add(roomRetry)
		} else {
			p.failures++
		}
		p.cfg.Log.Info("no further lane for SFTP", "reason", r.err)
		p.cfg.OnLane(LaneChange{Lane: p.given + 1, Err: r.err})
		return
	}
	p.given++
	l := newLane(p.given, r.stream, p.cfg.LaneWindow)
	l.unused = time.Now()
	p.more = append(p.more, l)
	p.start(l, r.r)
	p.cfg.OnLane(LaneChange{Lane: l.number, Open: true})
	p.vouch(l)
}

// drop gives a further lane up. What it had not answered is done again elsewhere; err is nil if it had nothing to do.
func (p *Proxy) drop(l *lane, err error) {
	if l.gone {
		return
	}
	l.gone = true
	close(l.done)
	_ = l.stream.Close()
	for i, other := range p.more {
		if other == l {
			p.more = append(p.more[:i:i], p.more[i+1:]...)
			break
		}
	}
	switch {
	case errors.Is(err, ErrNoRoom):
		p.roomFrom = time.Now().Add(roomRetry)
		p.cfg.Log.Debug("an SFTP lane was given back", "lane", l.number, "unanswered", len(l.pending))
	case err != nil:
		p.failures++
		p.cfg.Log.Warn("an SFTP lane ended", "lane", l.number, "unanswered", len(l.pending), "reason", err)
	}
	p.cfg.OnLane(LaneChange{Lane: l.number, Err: err})
	for _, f := range p.files {
		f.leave(l)
	}
	p.abandon(l)
}

// abandon deals with everything l has not answered.
func (p *Proxy) abandon(l *lane) {
	pending := l.pending
	l.pending, l.load = map[uint32]*op{}, 0
	var stranded []*op
	for _, o := range pending {
		switch {
		case o.own != nil:
			o.own(nil, errLaneGone)
		case o.chunk != nil:
			p.dropChunk(o.chunk)
		case o.pinned:
			stranded = append(stranded, o)
		default:
			if o.kind == write {
				o.file.lost = append(o.file.lost, span{o.off, o.end})
			}
			p.enqueue(o)
		}
	}
	if l != p.first {
		p.rescue(l, stranded)
	}
}

// startTicks lets tend be called once in a while, until there is nothing to look after.
func (p *Proxy) startTicks() {
	if p.ticks == nil {
		p.ticks = time.NewTicker(min(p.cfg.Idle, p.cfg.Stall, time.Second))
	}
}

// tend looks after the further lanes once in a while.
func (p *Proxy) tend(now time.Time) {
	for _, l := range append([]*lane(nil), p.more...) {
		switch {
		case len(l.pending) > 0:
			if now.Sub(l.heard) > p.cfg.Stall {
				p.drop(l, errStalled)
			}
		case p.inUse(l):
			l.unused = now
		case now.Sub(l.unused) > p.cfg.Idle:
			p.drop(l, nil)
		}
	}
	if n := p.walk.next; n != nil && now.Sub(n.since) > p.cfg.fresh {
		p.dropForeseen()
	}
	if len(p.more)+p.opening+p.walk.spare == 0 {
		p.ticks.Stop()
		p.ticks = nil
	}
}

// closeLanes closes every lane and lets its goroutines end.
func (p *Proxy) closeLanes() {
	for _, l := range p.more {
		close(l.done)
		_ = l.stream.Close()
		p.cfg.OnLane(LaneChange{Lane: l.number})
	}
	close(p.first.done)
	_ = p.first.stream.Close()
	if p.ticks != nil {
		p.ticks.Stop()
	}
}
