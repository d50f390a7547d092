package bridge

import (
	"context"
	"sync"
	"time"
)

// How many bytes of bulk may be under way to a client while somebody waits for echoes: at least one packet of the SSH library, at most what one channel of a client takes
// at once.
const (
	leastPace = bulkCopy
	firstPace = 4 * bulkCopy
	mostPace  = 2 << 20
)

const (
	// An answer may take paceTimes as long as on an empty line, and some turns at a processor. For a line to be always busy, what was sent behind the last question
	// has to last until the answer is there and the next half of the window arrives.
	paceTimes = 3
	paceSlack = 3 * time.Millisecond
	// paceMemory is for how long the shortest time counts. Then the line is emptied and the time taken anew: the way to the client may change.
	paceMemory = 10 * time.Second
	// emptyRounds are as many answers as that takes: to a question behind all that is under way, and to one behind a packet.
	emptyRounds = 2
	// pacePatience is how long an answer is waited for. A client may be stopped, or a program that knows no questions.
	pacePatience = 10 * time.Second
)

// pace bounds how much bulk is under way to the client: sent, but not read. It stands in front of every echo, in the kernel's buffers on both sides, in the
// network's, and in each of the programs that a jump passes. None of them says how much it holds, but a question to the client does, because it is answered when
// everything before it has been read. So there is always one question under way, and how long its answer takes, beside the time it takes on an empty line, says
// whether something waits. This is congestion control by delay, as in TCP Vegas (Brakmo and Peterson, 1995), from one SSH implementation to the other.
type pace struct {
	ask   func() error      // a global request (RFC 4254 section 4), and its answer, which may be a failure; an error if there can be none
	spawn func(task func()) // starts a goroutine that somebody waits for

	mu      sync.Mutex
	sent    int64 // bytes of bulk
	read    int64 // of these, how many the client has certainly read
	window  int64 // by how many the one may exceed the other
	limited bool  // somebody has waited since the last answer
	asking  bool
	silent  bool          // no answer has come for a long time
	turn    chan struct{} // closed and replaced when an answer has come

	shortest time.Duration // in which an answer has come since measured
	measured time.Time     // when the line was empty last
	emptying int           // answers until it is
	usual    int64         // the window before and after
}

func newPace(ask func() error, spawn func(func())) *pace {
	return &pace{ask: ask, spawn: spawn, turn: make(chan struct{}), window: leastPace, usual: firstPace, emptying: 1}
}

// admit waits until more bulk may be sent, but not for ever, whatever the client does.
func (p *pace) admit(ctx context.Context) {
	turn := p.full()
	if turn == nil {
		return
	}
	patience := time.NewTimer(pacePatience)
	defer patience.Stop()
	for turn != nil {
		select {
		case <-turn:
			turn = p.full()
		case <-patience.C:
			p.mu.Lock()
			p.silent = true
			p.mu.Unlock()
			return
		case <-ctx.Done():
			return
		}
	}
}

// full gives what to wait for while no more may be sent, else nil.
func (p *pace) full() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.silent || p.sent-p.read < p.window {
		return nil
	}
	p.limited = true
	return p.turn
}

// add counts n bytes that were sent.
func (p *pace) add(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.sent += int64(n)
	if !p.asking && p.askable() {
		p.asking = true
		before, asked := p.sent, time.Now()
		p.spawn(func() { p.follow(before, asked) })
	}
}

// askable reports whether a question is due: when half the window is used, so that the answer opens it again before the line is empty. A line of text now and then
// need not have an answer each. The caller holds mu.
func (p *pace) askable() bool { return p.sent-p.read >= p.window/2 }

// follow asks until the client has read nearly everything, first about the bytes that were sent before a certain time.
func (p *pace) follow(before int64, asked time.Time) {
	for p.answered(before, asked, p.ask()) {
		p.mu.Lock()
		before, asked = p.sent, time.Now()
		p.mu.Unlock()
	}
}

// answered notes the answer to a question, and reports whether another is due.
func (p *pace) answered(before int64, asked time.Time, err error) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.read = before
	if p.silent = err != nil; !p.silent {
		p.adjust(time.Since(asked), time.Now())
	}
	close(p.turn)
	p.turn = make(chan struct{})
	p.asking = err == nil && p.askable()
	return p.asking
}

// adjust makes the window fit what an answer has taken. The caller holds mu.
func (p *pace) adjust(took time.Duration, now time.Time) {
	switch enough := paceTimes*p.shortest + paceSlack; {
	case p.emptying > 0:
		if p.emptying--; p.emptying == 0 {
			p.shortest, p.measured, p.window = took, now, p.usual
		}
	case now.Sub(p.measured) > paceMemory:
		p.emptying, p.usual, p.window = emptyRounds, p.window, leastPace
	case took > enough:
		p.window = max(leastPace, p.window/2, int64(float64(p.window)*enough.Seconds()/took.Seconds()))
	case p.limited:
		p.window = min(mostPace, p.window+p.window/4)
	}
	p.shortest = min(p.shortest, took)
	p.limited = false
}

// paced is the client's half of a channel that may carry bulk.
type paced struct {
	c    *channel
	from *landing
}

// Write implements io.Writer.
func (w paced) Write(p []byte) (int, error) {
	b := w.c.bridge
	if !b.lanes.disturbs(w.from.berth) {
		return w.c.client.ch.Write(p)
	}
	b.pace.admit(b.ctx)
	n, err := w.c.client.ch.Write(p)
	b.pace.add(n)
	return n, err
}

// disturbs tells whether what a channel carries is in the way of somebody who waits for echoes on the same connection.
func (s *laneSet) disturbs(at *berth) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.traffic.attended() {
		return false
	}
	for _, l := range s.list {
		if l.holds[typing]+l.holds[talk] > 0 {
			return true
		}
	}
	return false
}
