package bridge

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// lane is one upstream connection to the machine.
type lane struct {
	*Link
	heard atomic.Uint64 // counts what the machine sent: its sign of life
	lent  chan struct{} // closed when the bridge is over and somebody else serves the link from now on
	mute  chan struct{} // closed when the machine has fallen silent. That the link is gone comes later, because AWS's session is closed politely

	// Guarded by laneSet.mu.
	holds     [traffics]int // channels on it, by what they carry
	sessions  int           // of them, sessions
	most      int           // sessions that the machine takes on one connection; 0: not known
	listeners int           // remote forwards; they stay where they were asked for
	talked    time.Time     // when a talk on it was last heard
	idleSince time.Time     // when the last of all these went
	yield     func()        // ends the further stream of a striped transfer that is here; nil without one. It does not wait, and may be called again
	yielding  bool          // yield has been called
}

// laneSet holds the upstream connections of one bridge: none until the first need, then as many as what is carried calls for.
type laneSet struct {
	connect func()        // makes one attempt, to be spawned
	limit   int           // lanes at once
	idle    time.Duration // how long one may carry nothing
	wait    time.Duration // how long a channel waits for one of its own

	mu      sync.Mutex
	list    []*lane       // those that are open
	opening int           // attempts under way
	waiting int           // channels that wait for an attempt
	retry   time.Time     // no attempt before this, because one has failed
	err     error         // why there is none: the first attempt failed; stands until retry
	closed  bool          // no more of anything
	turn    chan struct{} // closed and replaced whenever any of the above changes
}

// laneRetry is the pause after an attempt failed: what is open serves meanwhile.
const laneRetry = 30 * time.Second

// changed wakes who waits. The caller holds mu.
func (s *laneSet) changed() {
	close(s.turn)
	s.turn = make(chan struct{})
}

// openLane begins an attempt if one more is allowed. The caller holds lanes.mu.
func (b *bridge) openLane() {
	s := &b.lanes
	if s.mayOpen() {
		s.opening++
		b.spawn(s.connect)
	}
}

// openFirstLane begins the first attempt before anything needs it. A client that only forwards (ssh -N) may need nothing for hours, in which the machine's
// keepalives want answers and its going has to be noticed.
func (b *bridge) openFirstLane() {
	b.lanes.mu.Lock()
	defer b.lanes.mu.Unlock()
	if b.lanes.opening == 0 && len(b.lanes.list) == 0 { // else the client was quicker
		b.openLane()
	}
}

// mayOpen reports whether another attempt may begin. The caller holds mu.
func (s *laneSet) mayOpen() bool {
	return !s.closed && s.err == nil && len(s.list)+s.opening < s.limit && !time.Now().Before(s.retry)
}

// connectLane is one attempt.
func (b *bridge) connectLane() {
	err := errPanic // stands if up does not come back
	defer func() {
		if err != nil {
			b.lanes.failed(err)
		}
	}()
	var to *Link
	if to, err = b.up(b.ctx); err != nil {
		b.cfg.Log.Info("no lane", "err", err)
		return
	}
	l := &lane{Link: to, lent: make(chan struct{}), mute: make(chan struct{}), idleSince: time.Now()}
	b.lanes.adopt(l)
	// Its streams are served whatever happens: an unserved stream blocks the library's read loop, which then never ends.
	b.spawnIn(&b.serving, b.intakeOf(l.Leg, l, &b.serving).dispatch)
	b.spawnIn(&b.serving, func() {
		select {
		case <-l.Gone:
			b.loseLane(l, fmt.Errorf("%w: %w", errTargetLeft, l.Err))
		case <-l.lent:
		}
	})
	b.spawn(func() { b.keepAlive(l.Conn, &l.heard, func() { b.muteLane(l) }) })
	b.spawn(func() { b.retireIdle(l) })
}

// failed notes that an attempt came to nothing.
func (s *laneSet) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening--
	s.retry = time.Now().Add(laneRetry)
	if len(s.list) == 0 {
		s.err = err
	}
	s.changed()
}

// adopt keeps l, unless the bridge is over. It comes before the wait for the lane's end, so that this finds it in the set.
func (s *laneSet) adopt(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opening--
	s.list = append(s.list, l)
	if s.closed {
		_ = l.Conn.Close()
	}
	s.changed()
}

// loseLane lets go of a lane that has ended. What it carried ends, channel by channel; the bridge goes on with the others. It ends with its last lane, and
// with one that held remote forwards: their loss cannot be told otherwise, and a client that still believes in them would wait for ever.
func (b *bridge) loseLane(l *lane, why error) {
	s := &b.lanes
	s.mu.Lock()
	at := slices.Index(s.list, l)
	if at >= 0 {
		s.list = slices.Delete(s.list, at, at+1)
		s.changed()
	}
	last, listened, retired := len(s.list) == 0, l.listeners > 0, at < 0
	s.mu.Unlock()
	switch {
	case retired:
	case last || listened:
		b.end(why)
	default:
		b.cfg.Log.Warn("a lane was lost, the others go on", "err", why)
	}
}

// muteLane ends a lane whose machine answers nothing any more. It is called once.
func (b *bridge) muteLane(l *lane) {
	close(l.mute)
	b.loseLane(l, errTargetMute)
	_ = l.Conn.Close()
}

// retireIdle closes a lane that has carried nothing for a while, unless it is the last.
func (b *bridge) retireIdle(l *lane) {
	check := time.NewTicker(b.lanes.idle / 2)
	defer check.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-l.Gone:
			return
		case <-check.C:
			if b.lanes.retire(l) {
				b.cfg.Log.Debug("lane closed, it was idle")
				_ = l.Conn.Close()
				return
			}
		}
	}
}

// retire takes an idle lane out of the set, unless somebody waits for one: it may be this one, which has just been opened.
func (s *laneSet) retire(l *lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	at := slices.Index(s.list, l)
	if at < 0 || len(s.list) == 1 || s.waiting > 0 || l.busy() || time.Since(l.idleSince) < s.idle {
		return false
	}
	s.list = slices.Delete(s.list, at, at+1)
	s.changed()
	return true
}

// busy reports whether anything is on the lane. The caller holds laneSet.mu.
func (l *lane) busy() bool { return l.holds != [traffics]int{} || l.listeners > 0 }

// close ends every lane, now or as soon as it is there.
func (s *laneSet) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for _, l := range s.list {
		_ = l.Conn.Close()
	}
}

// lendable takes a lane out of the set that can serve another connection of the same person when this one's client has gone: nothing is on it, and nothing
// stays on the machine's side of it. sshd keeps an agent's socket and remote forwards as long as the connection lasts; they belonged to the client that left.
func (b *bridge) lendable(cause error) *lane {
	if !errors.Is(cause, ErrClientLeft) || b.leavesTraces() {
		return nil
	}
	moment := time.NewTimer(b.cfg.Limits.EOFHold) // channels that have ended on both sides are still being put away
	defer moment.Stop()
	select {
	case <-b.emptied:
	case <-moment.C:
	}
	s := &b.lanes
	s.mu.Lock()
	defer s.mu.Unlock()
	for at, l := range s.list {
		if l.Keep != nil && !l.busy() && !closedAlready(l.Gone) {
			s.list = slices.Delete(s.list, at, at+1)
			return l
		}
	}
	return nil
}

// leavesTraces reports whether something of the client stays on its connections to the machine until these end.
func (b *bridge) leavesTraces() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.agentAllowed || b.x11Allowed || b.listened
}

// lost says why the lane's connection ended. It is to be asked when gone or mute is closed, or ctx has ended, which is the bridge's.
func (l *lane) lost(ctx context.Context) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	if closedAlready(l.mute) {
		return errTargetMute
	}
	return fmt.Errorf("%w: %w", errTargetLeft, l.Err)
}
