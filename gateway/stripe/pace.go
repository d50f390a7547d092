package stripe

import "time"

// pace decides how many bytes may be under way on a lane: what it moves in a round trip, and what it moves in a moment of queueing on top. Less leaves it idle.
// More helps nobody: it keeps requests in the queue of one lane while others have room, makes writers stand still longer when a file is compared,
// and is lost with the lane. A lane's speed is not known beforehand: a Session Manager session moves 0.6 MiB in a second with the payloads that every
// agent takes, and twenty times that with large ones.
//
// The measure is the time from request to answer, against the shortest that was seen, as in TCP Vegas.
type pace struct {
	window, most int
	least        time.Duration // the shortest time to an answer; 0 before the first
	eased        time.Time     // when the window last got smaller
}

const (
	// queueing is how long a request may lie in a lane's queue. It covers the pauses of an agent and of a busy machine.
	queueing = 250 * time.Millisecond
	// leastWindow keeps four requests of the usual 32 KiB under way: one that moves, and the next ones while a machine with other things to do is late.
	leastWindow = 128 << 10
	// firstWindow is for the slow kind of lane.
	firstWindow = 128 << 10
)

// newPace begins with a window for the slow kind of lane. It doubles with each round trip as long as answers come quickly.
func newPace(most int) pace { return pace{window: min(firstWindow, most), most: most} }

// answered notes that an answer took so long. full says that the window was in use: a lane with little to do shows nothing about its limit.
func (p *pace) answered(took time.Duration, now time.Time, full bool) {
	if p.least == 0 || took < p.least {
		p.least = took
	}
	switch {
	case took > p.least+queueing:
		if now.Sub(p.eased) >= took { // an earlier answer of this length has had its effect
			p.eased = now
			p.window = max(p.window-p.window/4, min(leastWindow, p.most))
		}
	case full && took < p.least+queueing/2: // what is added shows in the answers only a queue's length later
		p.window = min(p.window+p.window/8, p.most)
	}
}
