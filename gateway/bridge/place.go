package bridge

import (
	"context"
	"errors"
	"time"

	"golang.org/x/crypto/ssh"
)

// need is what a channel asks of the lane it goes to.
type need struct {
	traffic traffic
	session bool
	from    *berth // where it is now, if it is somewhere
	avoid   *lane  // which has just refused it
	alone   bool   // a lane that it would share is of no use
}

// patience bounds how long a channel with this need waits for a lane that suits it.
func (s *laneSet) patience(n need) time.Duration {
	if n.avoid != nil || n.alone {
		return 10 * s.wait // nothing else is left to it
	}
	return s.wait
}

// waits tells whether a channel had better wait a moment for a lane that suits it than go to the best there is now. Forwards wait only where they would be
// in somebody's way or behind a transfer: a page behind -D opens dozens, and most carry little. The caller holds mu.
func (n need) waits(best *lane) bool {
	switch {
	case n.avoid != nil, n.alone, best == nil:
		return true
	case n.traffic == undecided:
		return false // it moves when it is decided: see channel.settleLane
	case n.session:
		return true
	}
	return best.holds[typing] > 0 || best.holds[bulk] > 0
}

// place decides which upstream connection serves a channel, and counts it there. Terminals and talk go together, and apart from everything else; a
// transfer gets a lane of its own, while there are any to be had; what nobody knows yet goes where it is in nobody's way, because it cannot be moved once
// it is known. Among those that suit, the least busy lane is taken. Where none does, another is opened, and the channel waits a moment for it, or
// makes do.
//
// The first need opens the first lane, and waits for that as long as it takes.
func (b *bridge) place(n need) (*berth, error) {
	s := &b.lanes
	limit := time.NewTimer(s.patience(n))
	defer limit.Stop()
	patient := true
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting++
	defer func() { s.waiting-- }()
	for {
		if err := s.refused(); err != nil {
			return nil, err
		}
		best, suits := s.pick(n)
		if !suits && s.wants(n) {
			b.openLane()
		}
		hope := patient && n.waits(best) && (s.opening > 0 || !suits && n.mayDisplace() && s.makeRoom())
		switch {
		case best != nil && (suits || !hope && !n.alone):
			b.tellShared(best, n, suits)
			return s.hold(best, n), nil
		case !hope && (n.avoid != nil || n.alone):
			return nil, errNoLane
		}
		turn := s.turn
		s.mu.Unlock()
		select {
		case <-turn:
		case <-limit.C:
			patient = false
		case <-b.ctx.Done():
			s.mu.Lock()
			return nil, context.Cause(b.ctx)
		}
		s.mu.Lock()
	}
}

// refused says why there is no lane at all, for as long as that is taken for granted: a machine that was away may be back by the time of the next need, of a client that
// only forwards (ssh -N) or holds the connection for others (ControlMaster). The caller holds mu.
func (s *laneSet) refused() error {
	if s.err != nil && !time.Now().Before(s.retry) {
		s.err = nil
	}
	return s.err
}

// wants tells whether to begin to open another lane for a need that no lane suits. The caller holds mu.
func (s *laneSet) wants(n need) bool {
	switch {
	case !s.mayOpenFor(n), s.opening > 0 && len(s.list) == 0: // the first one alone shows whether there is a way at all
		return false
	case n.traffic == other && n.avoid == nil:
		return s.opening == 0 // one is for many
	}
	return s.opening < s.waiting
}

// mayOpenFor tells whether there may be another lane for a need. Half of what may be open is kept for those that are known to need one. The caller
// holds mu.
func (s *laneSet) mayOpenFor(n need) bool {
	known := n.traffic != other || n.avoid != nil
	return s.mayOpen() && (known || len(s.list)+s.opening < max(s.limit/2, 2))
}

// mayDisplace tells whether a striped transfer should give up a lane for this need.
func (n need) mayDisplace() bool {
	return n.traffic == typing || n.traffic == talk || n.traffic == other
}

// tellShared notes that a channel goes to a lane that does not suit it. The caller holds mu.
func (b *bridge) tellShared(l *lane, n need, suits bool) {
	if suits || n.traffic == undecided {
		return
	}
	b.cfg.Log.Debug("a channel shares its lane", "carries", n.traffic, "typing", l.holds[typing], "talk", l.holds[talk], "other", l.holds[other],
		"bulk", l.holds[bulk], "lanes", len(b.lanes.list), "limit", b.lanes.limit)
}

// errNoLane is why a channel that one lane has refused found no other.
var errNoLane = errors.New("no other lane")

// pick gives the least costly lane for a need, nil if there is none, and whether it suits. The caller holds mu.
func (s *laneSet) pick(n need) (best *lane, suits bool) {
	least := 0
	for _, l := range s.list {
		here := n.from != nil && n.from.lane == l
		if l == n.avoid || n.session && !here && l.most > 0 && l.sessions >= l.most {
			continue
		}
		cost, fits := l.cost(n)
		if !fits {
			cost += 1 << 20
		}
		if best == nil || cost < least {
			best, least, suits = l, cost, fits
		}
	}
	if best == nil && n.avoid == nil && len(s.list) > 0 {
		return s.list[0], false // every lane is full: the machine shall say so itself
	}
	return best, suits
}

// cost tells how busy the lane is in the eyes of a need, and whether it suits. The caller holds laneSet.mu.
func (l *lane) cost(n need) (cost int, suits bool) {
	holds := l.holds
	if n.from != nil && n.from.lane == l {
		holds[n.from.traffic]--
	}
	quiet := holds[typing] + holds[talk]
	all := holds[undecided] + quiet + holds[other] + holds[bulk]
	switch n.traffic {
	case typing, talk:
		if quiet == 0 {
			cost = 1 // an empty lane is kept for a transfer
		}
		return cost + 100*holds[bulk] + 10*holds[other], holds[bulk]+holds[other] == 0
	case other:
		if time.Since(l.talked) > talkSilence {
			quiet = holds[typing]
		}
		return 1000*holds[typing] + 100*holds[bulk] + 50*(quiet-holds[typing]) + all, quiet+holds[bulk] == 0
	case bulk:
		return 1000*quiet + 100*holds[bulk] + all, quiet+holds[bulk]+holds[other] == 0
	}
	return 10*holds[bulk] + all, true // where it begins matters little: see channel.settleLane
}

// listenOn decides which lane a remote forward is asked for on, and keeps that lane. unlisten must follow.
func (b *bridge) listenOn() (*lane, error) {
	at, err := b.place(need{traffic: other})
	if err != nil {
		return nil, err
	}
	b.lanes.mu.Lock()
	at.lane.listeners++
	b.lanes.mu.Unlock()
	b.leave(at)
	return at.lane, nil
}

func (b *bridge) unlisten(l *lane) {
	b.lanes.mu.Lock()
	defer b.lanes.mu.Unlock()
	l.listeners--
	l.settle()
}

// openUp opens the mirror of a client's channel on a lane. A session that the machine does not take beside those it has on that lane (MaxSessions of
// sshd_config(5)) goes to another.
func (b *bridge) openUp(n need, kind string, payload []byte) (*landing, error) {
	var refusal error
	for {
		at, err := b.place(n)
		if err != nil {
			if refusal != nil {
				return nil, refusal
			}
			return nil, err
		}
		if n.from != nil && at.lane == n.from.lane {
			b.leave(at)
			return nil, errNoLane
		}
		ch, reqs, err := at.lane.Conn.OpenChannel(kind, payload)
		if err == nil {
			return newLanding(at, end{ch, reqs}), nil
		}
		again := n.avoid == nil && b.mayGoElsewhere(at, err)
		b.leave(at)
		if !again {
			return nil, err
		}
		n.avoid, refusal = at.lane, err
	}
}

// mayGoElsewhere tells whether a channel that was refused on one lane may be taken on another: where the lane has ended, or has all the sessions it may.
func (b *bridge) mayGoElsewhere(at *berth, err error) bool {
	var refusal *ssh.OpenChannelError
	if !errors.As(err, &refusal) {
		return b.lanes.limit > 1
	}
	s := &b.lanes
	s.mu.Lock()
	defer s.mu.Unlock()
	beside := at.lane.sessions - 1
	if !at.session || beside == 0 { // alone on its lane, it is the machine's last word
		return false
	}
	at.lane.most = beside
	return s.limit > 1
}
