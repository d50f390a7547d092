package agent

import "time"

// readPace is how long the real agent takes for one message of output: it asks for a pause of 1 ms, and with what the timer adds and the work it comes to 720
// messages a second, on every machine where it was measured (SPEC.md §7.6).
const readPace = time.Second / 720

// lateness bounds what a pause that took too long takes off the next ones.
const lateness = 20 * time.Millisecond

// pace is the agent's pause between two messages of output. The real agent has a machine to itself, or nearly. This one shares the processors with whatever is
// tested, whose pauses of 1 ms take 1.3 to 1.8 then, so it makes up for it.
type pace struct {
	late time.Duration // how much the last pauses were too long
	read time.Time     // when the last read ended
}

// begin notes that there was something to send.
func (p *pace) begin() { p.read = time.Now() }

// wait returns readPace after begin, or earlier if it returned too late before.
func (p *pace) wait() {
	due := p.read.Add(readPace - p.late)
	time.Sleep(time.Until(due))
	p.late = min(max(time.Since(due), 0), lateness)
}
