package bridge

import "time"

// berth is one channel's place on a lane. It is made by bridge.place and ends with bridge.leave.
type berth struct {
	lane    *lane
	traffic traffic // guarded by laneSet.mu
	settled bool    // it follows from what the channel is, and does not change any more; guarded like it
	session bool
}

// hold counts a channel on l. The caller holds mu.
func (s *laneSet) hold(l *lane, n need) *berth {
	at := &berth{lane: l, session: n.session}
	l.holds[at.traffic]++
	if n.session {
		l.sessions++
	}
	at.decide(n.traffic)
	return at
}

// holdOn counts a channel on a lane that is not to be chosen.
func (b *bridge) holdOn(l *lane, n need) *berth {
	b.lanes.mu.Lock()
	defer b.lanes.mu.Unlock()
	return b.lanes.hold(l, n)
}

// leave gives a place back.
func (b *bridge) leave(at *berth) {
	s := &b.lanes
	s.mu.Lock()
	defer s.mu.Unlock()
	l := at.lane
	l.holds[at.traffic]--
	if at.session {
		l.sessions--
	}
	l.settle()
	s.changed()
}

// settle notes when the lane has become idle. The caller holds laneSet.mu.
func (l *lane) settle() {
	if !l.busy() {
		l.idleSince = time.Now()
	}
}

// become counts a channel as something else. The caller holds laneSet.mu.
func (at *berth) become(t traffic) {
	at.lane.holds[at.traffic]--
	at.lane.holds[t]++
	at.traffic = t
	if t == talk {
		at.lane.talked = time.Now()
	}
}

// decide counts it as what follows from its kind. Terminals and copiers stay that, however much the one shows and however long the other pauses. The
// caller holds laneSet.mu.
func (at *berth) decide(t traffic) {
	at.become(t)
	at.settled = t == typing || t == bulk
}

// decide notes what a session carries, now that it is known what it runs.
func (b *bridge) decide(at *berth, t traffic) {
	b.lanes.mu.Lock()
	defer b.lanes.mu.Unlock()
	at.decide(t)
}

// found notes what the channel at a place turned out to carry. If it is bulk and others are on that lane, another lane is opened beside, so that what comes
// next need not wait for one.
func (b *bridge) found(at *berth, is traffic) {
	s := &b.lanes
	s.mu.Lock()
	defer s.mu.Unlock()
	if at.settled {
		return
	}
	at.become(is)
	if is != bulk {
		return
	}
	for _, l := range s.list {
		if !l.busy() {
			return
		}
	}
	if _, alone := at.lane.cost(need{traffic: bulk, from: at}); !alone && s.opening == 0 {
		b.openLane()
	}
}
