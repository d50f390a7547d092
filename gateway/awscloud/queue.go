package awscloud

import (
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// queue is who waits for calls of one kind, in one account and region. The limiter says when there is a turn; whose it is, is decided when it comes: people take
// turns, each with the oldest of their calls, so that somebody with a hundred calls holds nobody else up by more than one.
type queue struct {
	limiter *rate.Limiter
	longest time.Duration // the latest turn that is handed out

	mu      sync.Mutex
	turns   []time.Time // to come, in their order; never fewer than there are waiters
	people  []*inLine   // who has calls here; the first is next
	waiting int
}

// inLine is one person's calls, the oldest first.
type inLine struct {
	person string
	calls  []*waiter
}

// waiter is a call that waits. served is closed at its turn, or when it has lost its place, which refused tells.
type waiter struct {
	served  chan struct{}
	refused bool // valid once served is closed
}

func newQueue(r Rate, longest time.Duration) *queue {
	return &queue{limiter: rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst), longest: longest}
}

// join takes a turn at once (a nil waiter), takes a place in the line, or says that there is none (not ok). With a place come what it is, 1 for the next, and
// how long that will last if nobody else comes; lasts says whether the caller has so much time.
func (q *queue) join(person string, lasts func(time.Duration) bool) (w *waiter, place int, delay time.Duration, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	place = q.placeOf(person)
	if len(q.turns) > q.waiting { // of somebody who has gone
		delay = time.Until(q.turns[place-1])
		if !lasts(delay) {
			return nil, 0, 0, false
		}
		return q.enter(person), place, delay, true
	}
	turn := q.limiter.Reserve()
	switch last := turn.Delay(); {
	case last == 0:
		return nil, 0, 0, true
	case last > q.longest:
		turn.Cancel()
		if delay, ok = q.makeRoom(person, place, lasts); !ok {
			return nil, 0, 0, false
		}
	default:
		at := append(slices.Clone(q.turns), time.Now().Add(last))
		if delay = time.Until(at[place-1]); !lasts(delay) {
			turn.Cancel()
			return nil, 0, 0, false
		}
		q.turns = at
		time.AfterFunc(last, q.serve)
	}
	return q.enter(person), place, delay, true
}

// placeOf is where one more call of a person would stand at the latest: behind their own, and behind as many of everybody else. The caller holds mu.
func (q *queue) placeOf(person string) int {
	own := 0
	for _, p := range q.people {
		if p.person == person {
			own = len(p.calls)
		}
	}
	place := own + 1
	for _, p := range q.people {
		if p.person != person {
			place += min(len(p.calls), own+1)
		}
	}
	return place
}

// makeRoom has the last call of whoever has most refused, where that is somebody with more than one above the caller's. The caller holds mu.
func (q *queue) makeRoom(person string, place int, lasts func(time.Duration) bool) (time.Duration, bool) {
	var most, own *inLine
	for _, p := range q.people {
		if most == nil || len(p.calls) > len(most.calls) {
			most = p
		}
		if p.person == person {
			own = p
		}
	}
	if most == nil || most == own || own != nil && len(most.calls) <= len(own.calls)+1 || len(most.calls) < 2 {
		return 0, false
	}
	delay := time.Until(q.turns[place-1])
	if !lasts(delay) {
		return 0, false
	}
	last := most.calls[len(most.calls)-1]
	last.refused = true
	q.remove(most, last)
	close(last.served)
	return delay, true
}

// enter adds a call. The caller holds mu.
func (q *queue) enter(person string) *waiter {
	w := &waiter{served: make(chan struct{})}
	q.waiting++
	for _, p := range q.people {
		if p.person == person {
			p.calls = append(p.calls, w)
			return w
		}
	}
	q.people = append(q.people, &inLine{person: person, calls: []*waiter{w}})
	return w
}

// serve gives a turn to the oldest call of the first person, who goes to the end of the line. Where nobody waits any more, the turn is lost.
func (q *queue) serve() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.turns = q.turns[1:]
	if len(q.people) == 0 {
		return
	}
	next := q.people[0]
	w := next.calls[0]
	q.remove(next, w)
	if len(next.calls) > 0 {
		q.people = append(q.people[1:], next)
	}
	close(w.served)
}

// leave gives up a place. It reports false when the turn has come meanwhile.
func (q *queue) leave(w *waiter) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, p := range q.people {
		if slices.Contains(p.calls, w) {
			q.remove(p, w)
			return true
		}
	}
	return false
}

// remove takes a call out of the line, and its person with the last. The caller holds mu.
func (q *queue) remove(p *inLine, w *waiter) {
	q.waiting--
	p.calls = slices.DeleteFunc(p.calls, func(other *waiter) bool { return other == w })
	if len(p.calls) == 0 {
		q.people = slices.DeleteFunc(q.people, func(other *inLine) bool { return other == p })
	}
}
