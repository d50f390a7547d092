package ssmproto

import (
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// chaosLink is one direction of the service in virtual time: it loses, doubles, delays and so reorders. One goroutine delivers, so that a receiver gets one
// frame at a time.
type chaosLink struct {
	plan    linkPlan
	deliver func(frame []byte)
	stop    <-chan struct{}
	wake    chan struct{}

	mu    sync.Mutex
	dice  *rand.Rand
	queue []chaosParcel // by due
	lost  time.Time     // nothing gets through before
}

type chaosParcel struct {
	frame []byte
	due   time.Time
	own   bool // a message of the service, which reaches whoever is connected
}

func newChaosLink(plan linkPlan, seed uint64, stop <-chan struct{}, deliver func([]byte)) *chaosLink {
	return &chaosLink{plan: plan, deliver: deliver, stop: stop, wake: make(chan struct{}, 1), dice: rand.New(rand.NewPCG(seed, 1))}
}

// take throws the dice for one frame. A message of the service itself stays in its place behind the others.
func (l *chaosLink) take(frame []byte) {
	m, err := Parse(frame)
	isAck := err == nil && m.Type == Acknowledge
	l.mu.Lock()
	defer l.mu.Unlock()
	if err == nil && !isAck && m.Type != InputStreamData && m.Type != OutputStreamData {
		l.queue = append(l.queue, chaosParcel{frame, later(l.lost, l.lastDue()), true})
		l.poke()
		return
	}
	throw := func(chance int) bool { return l.dice.IntN(1000) < chance }
	if time.Now().Before(l.lost) || throw(l.plan.drop) || isAck && throw(l.plan.dropAcks) {
		return
	}
	l.add(frame)
	if throw(l.plan.double) {
		l.add(frame)
	}
	l.poke()
}

func (l *chaosLink) poke() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *chaosLink) lastDue() time.Time {
	if n := len(l.queue); n > 0 {
		return l.queue[n-1].due
	}
	return time.Time{}
}

// add queues a frame behind those that are due before it; a reordered one is due late.
func (l *chaosLink) add(frame []byte) {
	due := time.Now().Add(l.plan.delay)
	if l.plan.jitter > 0 && l.dice.IntN(1000) < l.plan.reorder {
		due = due.Add(time.Duration(l.dice.Int64N(int64(l.plan.jitter))))
	}
	at, _ := slices.BinarySearchFunc(l.queue, due, func(p chaosParcel, due time.Time) int {
		if p.due.After(due) {
			return 1
		}
		return -1
	})
	l.queue = slices.Insert(l.queue, at, chaosParcel{frame, due, false})
}

// lose makes everything get lost for a time, what is under way included.
func (l *chaosLink) lose(d time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lost = later(l.lost, time.Now().Add(d))
	l.queue = slices.DeleteFunc(l.queue, func(p chaosParcel) bool { return !p.own })
	for i := range l.queue {
		l.queue[i].due = later(l.queue[i].due, l.lost)
	}
}

// run delivers what is due.
func (l *chaosLink) run() {
	for {
		l.mu.Lock()
		wait := time.Hour
		var frame []byte
		if len(l.queue) > 0 {
			if wait = time.Until(l.queue[0].due); wait <= 0 {
				frame = l.queue[0].frame
				l.queue = l.queue[1:]
			}
		}
		l.mu.Unlock()
		if frame != nil {
			l.deliver(frame)
			continue
		}
		timer := time.NewTimer(wait)
		select {
		case <-l.wake:
		case <-timer.C:
		case <-l.stop:
			timer.Stop()
			return
		}
		timer.Stop()
	}
}
