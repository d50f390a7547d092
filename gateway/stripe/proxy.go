package stripe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// ErrLaneLost is the first lane ending while requests were unanswered.
var ErrLaneLost = errors.New("stripe: the connection to the machine ended in the middle of a transfer")

// Proxy stands between one client's SFTP stream and the lanes to its server. All state belongs to the goroutine that is in Run.
type Proxy struct {
	cfg   Config
	owned sync.WaitGroup // every goroutine

	toClient   *outbox
	fromClient chan *packet
	clientGone chan error // one error: why reading the client ended
	fromLanes  chan laneEvent
	opened     chan openResult
	kick       chan struct{} // holds one: an outbox got smaller
	broken     chan error    // holds one: a panic in one of the goroutines
	over       chan struct{} // closed when Run returns
	ticks      *time.Ticker  // runs while there are further lanes

	client io.ReadWriter
	first  *lane
	more   []*lane
	given  int // number of the last further lane

	version     []byte // the first lane's VERSION packet
	learned     learned
	walk        walk
	batch       batch
	placing     placing
	handles     handles
	ownHandles  []byte // the beginning of those that are the proxy's own; nil before the first
	ownHandle   uint32 // the last of them
	off         string // why nothing is striped any more; "" while it may be
	opening     int    // lanes being opened
	failures    int
	roomFrom    time.Time // no further lane is asked for before
	clientEnded error     // io.EOF or worse, once the client has ended
	halfClosed  bool
	result      error
	finished    bool

	files       map[string]*file // by the first lane's handle
	held        *packet          // the client's next request, which must wait
	outstanding []*op
	queue       []*op  // striped, not yet on a lane
	queued      int    // bytes of WRITEs in queue
	kept        int    // bytes of requests on further lanes that are kept as they came
	late        []*op  // OPENs that were placed, and are to be done again on the first lane
	lingering   int    // handles of further lanes that are being closed, or opened in vain
	begun       uint64 // requests of the client's so far
	verifying   int    // files that are written and being compared: nothing may change meanwhile
	early       int    // bytes of answers that wait for earlier ones
	owing       *file  // some of whose WRITEs were answered early, until the server has answered them
	closes      int    // CLOSEs that were answered early and not by the server
	epoch       uint64 // counts the client's requests that may change files
	hidden      int    // answers that the client had before the server gave them
	ahead       int    // bytes read ahead, under way or kept
	lastID      uint32
	scratch     []byte // for making small packets
}

// New prepares a proxy between client and first, an SFTP stream in which nothing has been said yet.
func New(client io.ReadWriter, first io.ReadWriteCloser, cfg Config) *Proxy {
	p := &Proxy{
		cfg: cfg.withDefaults(), client: client,
		toClient:   newOutbox(client),
		fromClient: make(chan *packet),
		clientGone: make(chan error, 1),
		fromLanes:  make(chan laneEvent),
		opened:     make(chan openResult),
		kick:       make(chan struct{}, 1),
		broken:     make(chan error, 1),
		over:       make(chan struct{}),
		files:      map[string]*file{},
		lastID:     0xf0000000,
	}
	p.first = newLane(0, first, p.cfg.LaneWindow)
	return p
}

// Run carries requests and answers until the first lane's stream ends and all it said has been written to the client, or until ctx ends.
// It closes every lane. It neither closes the client's stream nor waits for a Read or Write on it that is still waiting: that is for the caller,
// and then Wait.
//
// The client's end of input travels: once every striped request has been answered, the first lane's CloseWrite is called if it has one, else its Close.
// The error is nil if the first lane ended with nothing unanswered.
func (p *Proxy) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer close(p.over)
	p.spawn(p.readClient)
	written := make(chan struct{})
	p.spawn(func() {
		defer close(written)
		_, _ = p.toClient.run(p.over, p.poke) // a client that hears no more is noticed by its reader
	})
	p.start(p.first, bufio.NewReaderSize(p.first.stream, 4<<10))
	for !p.finished {
		p.advance(ctx)
		if !p.finished {
			p.step(ctx)
		}
	}
	p.closeLanes()
	p.toClient.close()
	select {
	case <-written:
	case <-ctx.Done():
	}
	return p.result
}

// Wait returns when every goroutine of the proxy has ended. Call it after Run, with the client's stream closed.
func (p *Proxy) Wait() { p.owned.Wait() }

// advance does what can be done without waiting.
func (p *Proxy) advance(ctx context.Context) {
	if next := p.held; next != nil {
		p.held = nil
		p.fromTheClient(next)
	}
	for _, f := range p.files {
		p.promote(ctx, f)
	}
	if p.crowded() {
		p.openLanes(ctx)
	}
	p.schedule()
	p.sendLate()
	p.readAhead()
	if p.clientEnded != nil && !p.halfClosed && p.held == nil && p.owing == nil && !p.mending() && !p.walk.asking && p.striped() == 0 && p.lingering == 0 {
		p.halfClose()
	}
}

// step waits for one thing to happen.
func (p *Proxy) step(ctx context.Context) {
	var requests chan *packet
	var clientGone chan error
	if p.mayAccept() {
		requests, clientGone = p.fromClient, p.clientGone
	}
	var answers chan laneEvent
	if p.toClient.size() < maxUnsent {
		answers = p.fromLanes
	}
	var tick <-chan time.Time
	if p.ticks != nil {
		tick = p.ticks.C
	}
	select {
	case pkt := <-requests:
		p.fromTheClient(pkt)
	case p.clientEnded = <-clientGone:
		p.cfg.Log.Debug("the client's SFTP stream ended", "reason", p.clientEnded)
		if errors.Is(p.clientEnded, ErrPacket) {
			p.finish(p.clientEnded)
		}
	case ev := <-answers:
		p.fromLane(ev)
	case r := <-p.opened:
		p.laneOpened(r)
	case <-p.kick:
	case err := <-p.broken:
		p.finish(err)
	case now := <-tick:
		p.tend(now)
	case <-ctx.Done():
		p.finish(context.Cause(ctx))
	}
}

// mayAccept reports whether the client's next request may be taken. Everything that a client could pile up is bounded here.
func (p *Proxy) mayAccept() bool {
	return p.held == nil && p.clientEnded == nil && len(p.outstanding) < maxOutstanding && p.queued+p.kept < maxQueued && p.first.out.size() < maxUnsent
}

// striped counts the client's requests that are on any lane but the first, or may have to be done on that again.
func (p *Proxy) striped() int {
	n := len(p.late)
	for _, o := range p.outstanding {
		if !o.pinned || o.on != p.first || o.kind == create || o.trials > 0 || o.stale {
			n++
		}
	}
	return n
}

func (p *Proxy) readClient() {
	r := bufio.NewReaderSize(p.client, 4<<10)
	for {
		pkt, err := readPacket(r)
		if err != nil {
			p.clientGone <- err
			return
		}
		select {
		case p.fromClient <- pkt:
		case <-p.over:
			return
		}
	}
}

func (p *Proxy) poke() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// finish ends Run; the first reason stands.
func (p *Proxy) finish(err error) {
	if p.finished {
		return
	}
	p.finished, p.result = true, err
	p.leaveNoGaps()
	for _, f := range p.files {
		p.report(f, errUnclosed)
	}
	if w := &p.placing; w.placed > 0 {
		p.cfg.Log.Debug("files were placed on lanes", "count", w.placed, "waits", w.waits, "taken", w.taken)
	}
	if p.hidden > 0 {
		p.cfg.Log.Debug("SFTP answers were given early", "count", p.hidden)
	}
}

// disable stops striping for the rest of the stream; files that are striped stay so.
func (p *Proxy) disable(reason string) {
	if p.off == "" {
		p.off = reason
		p.cfg.Log.Info("SFTP stays on one lane", "reason", reason)
	}
}

// halfClose passes the client's end of input on.
func (p *Proxy) halfClose() {
	p.halfClosed = true
	p.mendAll(p.first)
	p.first.out.close()
}

// firstEnded is the end of the first lane's stream.
func (p *Proxy) firstEnded(err error) {
	p.first.gone = true
	switch {
	case len(p.outstanding) == p.closes && errors.Is(err, io.EOF): // nobody waits for a CLOSE that was answered early
		p.finish(nil)
	default:
		p.finish(fmt.Errorf("%w: %w", ErrLaneLost, err))
	}
}
