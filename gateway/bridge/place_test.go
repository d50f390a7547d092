package bridge

import (
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

// laneOf makes a lane that carries what the words say, "typing bulk bulk". "silence" is a talk that has been silent for long.
func laneOf(t *testing.T, carries string) *lane {
	t.Helper()
	l := &lane{}
	for _, word := range strings.Fields(carries) {
		at := undecided
		for ; at < traffics && at.String() != word; at++ {
		}
		switch {
		case word == "silence":
			l.holds[talk]++
			l.talked = time.Now().Add(-2 * talkSilence)
		case word == "talk":
			l.holds[talk]++
			l.talked = time.Now()
		case at < traffics:
			l.holds[at]++
		default:
			t.Fatalf("no traffic is called %q", word)
		}
	}
	return l
}

// TestWhichLane is the table of placement: what a new channel does when these lanes are open and a further one may be.
func TestWhichLane(t *testing.T) {
	session := func(what traffic) need { return need{traffic: what, session: true} }
	forward := need{traffic: other}
	for _, test := range []struct {
		need  need
		lanes []string
		best  int
		suits bool
		waits bool // for another lane, where none suits
	}{
		// A terminal is never beside bulk or what may become it, if that can be helped.
		{session(typing), []string{""}, 0, true, false},
		{session(typing), []string{"typing"}, 0, true, false},
		{session(typing), []string{"", "typing talk"}, 1, true, false},
		{session(typing), []string{"bulk", ""}, 1, true, false},
		{session(typing), []string{"other"}, 0, false, true},
		{session(typing), []string{"bulk", "other"}, 1, false, true},
		{session(talk), []string{"typing", "other"}, 0, true, false},
		// What nobody knows keeps away from where somebody waits for each answer, and from bulk.
		{session(other), []string{"other"}, 0, true, false},
		{session(other), []string{"typing", "other other"}, 1, true, false},
		{session(other), []string{"typing", ""}, 1, true, false},
		{session(other), []string{"typing"}, 0, false, true},
		{session(other), []string{"talk"}, 0, false, true},
		{session(other), []string{"silence"}, 0, true, false},
		{session(other), []string{"bulk", "other"}, 1, true, false},
		{session(other), []string{"typing", "talk", "bulk"}, 1, false, true},
		// A forward waits only where it would be in the way of a terminal, or behind a transfer.
		{forward, []string{""}, 0, true, false},
		{forward, []string{"typing"}, 0, false, true},
		{forward, []string{"bulk"}, 0, false, true},
		{forward, []string{"talk"}, 0, false, false},
		{forward, []string{"typing", "talk"}, 1, false, false},
		{forward, []string{"typing", "other other other"}, 1, true, false},
		{forward, []string{"typing", "bulk", "other"}, 2, true, false},
		// A transfer has a lane of its own.
		{session(bulk), []string{""}, 0, true, false},
		{session(bulk), []string{"other", ""}, 1, true, false},
		{session(bulk), []string{"other"}, 0, false, true},
		{session(bulk), []string{"typing", "bulk bulk", "bulk"}, 2, false, true},
		{session(bulk), []string{"typing", "talk", "other"}, 2, false, true},
		// Where a session begins matters little, but behind a transfer its first questions would take long.
		{session(undecided), []string{"typing"}, 0, true, false},
		{session(undecided), []string{"bulk", "typing"}, 1, true, false},
	} {
		t.Run(fmt.Sprintf("%v %v beside %q", test.need.traffic, test.need.session, test.lanes), func(t *testing.T) {
			s := laneSet{limit: 8}
			for _, carries := range test.lanes {
				s.list = append(s.list, laneOf(t, carries))
			}
			best, suits := s.pick(test.need)
			if best != s.list[test.best] || suits != test.suits {
				t.Errorf("took %v, which suits: %v", best.holds, suits)
			}
			if waits := !suits && test.need.waits(best); waits != test.waits {
				t.Errorf("waits for another: %v", waits)
			}
		})
	}
}

// TestWhichLaneAChannelLeavesBehind follows one lane through what its channels turn out to be.
func TestWhichLaneAChannelLeavesBehind(t *testing.T) {
	b := &bridge{cfg: Config{Log: slog.New(slog.DiscardHandler)}, lanes: laneSet{limit: 1, turn: make(chan struct{})}}
	l := laneOf(t, "")
	b.lanes.list = []*lane{l}
	hold := func(n need) *berth { return b.holdOn(l, n) }
	expect := func(when string, want string) {
		t.Helper()
		if want := laneOf(t, want).holds; l.holds != want {
			t.Errorf("%s: holds %v, want %v", when, l.holds, want)
		}
	}
	terminal, copier := hold(need{traffic: typing, session: true}), hold(need{traffic: bulk, session: true})
	b.found(terminal, bulk)
	b.found(copier, talk)
	expect("what shows much is still a terminal, and what answers is still a copier", "typing bulk")
	forward := hold(need{traffic: other})
	for _, is := range []traffic{talk, bulk, other, talk} {
		b.found(forward, is)
		expect("a forward that turned out to be "+is.String(), "typing bulk "+is.String())
	}
	command := hold(need{session: true})
	b.decide(command, other)
	expect("a session that runs something", "typing bulk talk other")
	for _, at := range []*berth{terminal, copier, forward, command} {
		b.leave(at)
	}
	expect("the end", "")
	if l.busy() || l.sessions != 0 {
		t.Errorf("%d sessions are left on an empty lane", l.sessions)
	}
}

// TestALaneThatSomebodyWaitsForIsNotIdle: who waits needs a moment to hear that it is there.
func TestALaneThatSomebodyWaitsForIsNotIdle(t *testing.T) {
	s := laneSet{list: []*lane{laneOf(t, "typing"), laneOf(t, "")}, turn: make(chan struct{}), waiting: 1}
	if s.retire(s.list[1]) {
		t.Error("it was taken away")
	}
	if s.waiting = 0; !s.retire(s.list[1]) {
		t.Error("nobody waits, and it stays")
	}
}
