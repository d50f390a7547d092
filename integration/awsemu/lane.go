package awsemu

import (
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Bounds of the queue in front of one receiver. While the receiver is connected a full queue holds its sender back,
// as TCP would; while it is absent what does not fit is lost, and the sender's retransmission mends it (SPEC.md §13.7).
const (
	maxQueued      = 8192
	maxQueuedBytes = 64 << 20
	maxAbsent      = 1000
)

// lane carries the messages of one direction of a session: a delay line with a bounded queue, one goroutine that writes, and the faults of a Link.
// It outlives the WebSockets on both of its ends.
type lane struct {
	delay time.Duration // of Config
	link  func(*Faults) *Link
	wake  chan struct{} // something changed for the writer
	space chan struct{} // something changed for a sender that waits
	stats laneStats

	mu     sync.Mutex
	queue  []parcel // from head on
	head   int
	bytes  int
	held   *parcel // put aside by Link.Reorder until the next message
	faults *Faults
	chance *rand.Rand
	to     *channel // nil while the receiver is absent
	ended  bool     // the last parcel is queued, nothing more is taken
}

// parcel is one frame on its way.
type parcel struct {
	frame []byte
	due   time.Time
	last  bool // then the receiver is dismissed
}

// laneStats is LaneInfo while it is counted.
type laneStats struct{ messages, bytes, lost, overflowed, duplicated, reordered, greased atomic.Int64 }

func newLane(delay time.Duration, link func(*Faults) *Link) *lane {
	return &lane{delay: max(delay, 0), link: link, wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// use puts faults in force, with the dice thrown anew from their seed.
func (l *lane) use(f *Faults) {
	l.mu.Lock()
	l.faults = f
	//nolint:gosec // G404: faults have to repeat
	l.chance = rand.New(rand.NewPCG(f.Seed, 0))
	l.mu.Unlock()
	signal(l.wake)
}

// connect makes c the receiver; nil when it has gone.
func (l *lane) connect(c *channel) {
	l.mu.Lock()
	l.to = c
	l.mu.Unlock()
	signal(l.wake)
	signal(l.space)
}

// disconnect forgets c if it is still the receiver.
func (l *lane) disconnect(c *channel) {
	l.mu.Lock()
	if l.to == c {
		l.to = nil
	}
	l.mu.Unlock()
	signal(l.wake)
	signal(l.space)
}

// push takes a frame from the sender's WebSocket. It waits while the queue of a connected receiver is full; done ends the wait.
func (l *lane) push(frame []byte, kind ssmproto.MessageType, done <-chan struct{}) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for !l.ended && l.to != nil && l.full() {
		l.mu.Unlock()
		select {
		case <-l.space:
		case <-done:
		}
		l.mu.Lock()
		select {
		case <-done:
			return
		default:
		}
	}
	switch {
	case l.ended:
	case l.to == nil && len(l.queue)-l.head >= maxAbsent:
		l.stats.overflowed.Add(1)
	default:
		l.spoil(frame, kind)
	}
}

func (l *lane) full() bool { return len(l.queue)-l.head >= maxQueued || l.bytes >= maxQueuedBytes }

// spoil throws the dice for one message and queues what is left of it.
func (l *lane) spoil(frame []byte, kind ssmproto.MessageType) {
	link := l.link(l.faults)
	if !link.chancy() && l.held == nil {
		l.add(frame)
		return
	}
	throw := func(p float64) bool { return p > 0 && l.chance.Float64() < p }
	if throw(link.Drop) || kind == ssmproto.Acknowledge && throw(link.DropAcks) {
		l.stats.lost.Add(1)
		return
	}
	if l.held == nil && throw(link.Reorder) {
		l.held = &parcel{frame: frame}
		l.stats.reordered.Add(1)
		return
	}
	l.add(frame)
	if throw(link.Duplicate) {
		l.add(frame)
		l.stats.duplicated.Add(1)
	}
	if l.held != nil {
		l.add(l.held.frame)
		l.held = nil
	}
	if throw(link.Grease) && !isHandshakeComplete(frame) {
		l.add(serviceFrame("emulator_grease", []byte(`{"Grease":true}`)))
		l.stats.greased.Add(1)
	}
}

// inject queues a frame of the service itself, which no dice can touch.
func (l *lane) inject(frame []byte) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.ended && len(l.queue)-l.head < maxQueued {
		l.add(frame)
	}
}

func (l *lane) add(frame []byte) {
	delay := l.delay
	if d := l.link(l.faults).Delay; d != 0 {
		delay = max(time.Duration(d), 0)
	}
	p := parcel{frame: frame}
	if delay > 0 {
		p.due = time.Now().Add(delay)
	}
	if l.head > 0 && l.head == len(l.queue) {
		l.queue, l.head = l.queue[:0], 0
	}
	l.queue = append(l.queue, p)
	l.bytes += len(frame)
	if len(l.queue)-l.head == 1 {
		signal(l.wake)
	}
}

// finish queues the last frame; drain lets what is queued go first. Without receiver nothing is kept for it.
func (l *lane) finish(frame []byte, drain bool) {
	l.mu.Lock()
	if !l.ended {
		if l.held != nil {
			l.add(l.held.frame)
			l.held = nil
		}
		if !drain || l.to == nil {
			l.queue, l.head, l.bytes = nil, 0, 0
		}
		l.add(frame)
		l.queue[len(l.queue)-1].last = true
		l.ended = true
	}
	l.mu.Unlock()
	signal(l.wake)
	signal(l.space)
}

// run writes what is due until the last parcel, or until done.
func (l *lane) run(done <-chan struct{}) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		p, to, wait := l.next()
		if to == nil {
			if p.last {
				return
			}
			var due <-chan time.Time
			if wait > 0 {
				timer.Reset(wait)
				due = timer.C
			}
			select {
			case <-l.wake:
			case <-due:
			case <-done:
				return
			}
			continue
		}
		if err := to.write(p.frame); err != nil {
			l.disconnect(to)
			if !errors.Is(err, websocket.ErrCloseSent) { // a channel that says goodbye is left in peace
				to.abort()
			}
			continue
		}
		faults := l.taken(p)
		if p.last {
			to.dismiss()
			return
		}
		if to.carried(len(p.frame), faults) {
			to.abort()
		}
	}
}

// next gives the first parcel and its receiver when it can be written now; else how long until it is due, 0 for unknown.
// A last parcel without receiver is given without one.
func (l *lane) next() (p parcel, to *channel, wait time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head == len(l.queue) {
		return parcel{}, nil, 0
	}
	p = l.queue[l.head]
	if l.to == nil {
		return parcel{last: l.ended}, nil, 0
	}
	if l.link(l.faults).Stall && !l.ended {
		return parcel{}, nil, 0
	}
	if !p.due.IsZero() {
		if wait = time.Until(p.due); wait > 0 {
			return parcel{}, nil, wait
		}
	}
	return p, l.to, 0
}

// taken removes the first parcel, unless finish has replaced the queue meanwhile, and gives the faults in force.
func (l *lane) taken(p parcel) *Faults {
	l.stats.messages.Add(1)
	l.stats.bytes.Add(int64(len(p.frame)))
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.head < len(l.queue) && &l.queue[l.head].frame[0] == &p.frame[0] {
		wasFull := l.full()
		l.queue[l.head] = parcel{}
		l.head++
		l.bytes -= len(p.frame)
		if l.head > maxQueued {
			n := copy(l.queue, l.queue[l.head:])
			clear(l.queue[n:])
			l.queue, l.head = l.queue[:n], 0
		}
		if wasFull {
			signal(l.space)
		}
	}
	return l.faults
}
