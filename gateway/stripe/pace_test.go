package stripe

import (
	"testing"
	"time"
)

// moveOver simulates a lane of a speed, in bytes per second, and a round trip, to which as much is sent at once as pace allows, in requests of 32 KiB. It
// gives how much was under way in the end, and the share of the time in which the lane had something to move.
func moveOver(p *pace, speed int, rtt time.Duration) (window int, busy float64) {
	const piece = 32 << 10
	type request struct{ sent, done time.Time }
	var (
		now, free time.Time
		under     []request
		idle      time.Duration
	)
	for range 2000 {
		for len(under) < 2 || (len(under)+1)*piece <= p.window {
			begins := now.Add(rtt / 2)
			if begins.After(free) {
				idle += begins.Sub(free)
			} else {
				begins = free
			}
			free = begins.Add(time.Duration(piece) * time.Second / time.Duration(speed))
			under = append(under, request{now, free.Add(rtt / 2)})
		}
		first := under[0]
		now = first.done
		p.answered(now.Sub(first.sent), now, len(under)*piece >= p.window/2)
		under = under[1:]
	}
	return p.window, 1 - idle.Seconds()/now.Sub(time.Time{}).Seconds()
}

func TestPaceFillsALaneAndNoMore(t *testing.T) {
	const mebibyte = 1 << 20
	for _, test := range []struct {
		name     string
		speed    int // bytes per second
		rtt      time.Duration
		longest  time.Duration // that the window takes to move
		leastUse float64
	}{
		{"a session at the agent's pace", mebibyte * 64 / 100, 30 * time.Millisecond, 450 * time.Millisecond, 0.98},
		{"the same, far away", mebibyte * 64 / 100, 300 * time.Millisecond, 700 * time.Millisecond, 0.98},
		{"large payloads", 12 * mebibyte, 30 * time.Millisecond, 300 * time.Millisecond, 0.98},
		{"a session without limits", 100 * mebibyte, time.Millisecond, 100 * time.Millisecond, 0.98},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := newPace(512 << 10)
			window, busy := moveOver(&p, test.speed, test.rtt)
			if moves := time.Duration(window) * time.Second / time.Duration(test.speed); moves > test.longest {
				t.Errorf("%d bytes are under way, which is %v", window, moves)
			}
			if busy < test.leastUse {
				t.Errorf("the lane was in use %.2f of the time", busy)
			}
		})
	}
}

// TestPaceIsNotMovedByAnIdleLane: quick answers to few requests say nothing about many.
func TestPaceIsNotMovedByAnIdleLane(t *testing.T) {
	p := newPace(512 << 10)
	before := p.window
	for range 100 {
		p.answered(time.Millisecond, time.Time{}.Add(time.Second), false)
	}
	if p.window != before {
		t.Errorf("the window is %d, and was %d", p.window, before)
	}
}
