package ssmproto

import "time"

// pacer is a token bucket without a clock. It is kept as one point in time (the generic cell rate algorithm): the moment at which the bucket
// would be full again.
type pacer struct {
	each  time.Duration // one message costs this much; 0 lets everything through
	burst time.Duration // how far ahead of time the bucket may be spent
	full  time.Time
}

// newPacer lets rate messages a second through, and burst at once after a pause.
func newPacer(rate, burst int) pacer {
	if rate <= 0 {
		return pacer{}
	}
	each := time.Second / time.Duration(rate)
	return pacer{each: each, burst: each * time.Duration(burst)}
}

// wait is how long until the next message may go; 0 is now.
func (p *pacer) wait(now time.Time) time.Duration {
	return max(0, p.full.Add(p.each-p.burst).Sub(now))
}

// spend pays for one message.
func (p *pacer) spend(now time.Time) {
	if p.full.Before(now) {
		p.full = now
	}
	p.full = p.full.Add(p.each)
}
