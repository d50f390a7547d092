package ssmproto

import "time"

// Ours to choose: when to repeat. The reference sides repeat only their oldest message, every 100 ms at most (SPEC.md §4.3).
const (
	startRTT     = 100 * time.Millisecond // before anything was measured
	settledRTO   = 200 * time.Millisecond // least wait once data has been acknowledged
	startRTO     = 20 * time.Millisecond  // least wait before: an agent that still dials the port forgets what arrives (SPEC.md §4.4)
	maximumRTO   = 4 * time.Second
	granularity  = 10 * time.Millisecond
	minRTTWindow = 10 * time.Second // how long the shortest round trip is remembered
)

// roundTrip estimates how long an acknowledgement takes (RFC 6298). Only messages sent once are measured (Karn's rule): the acknowledgement of
// a repeated one does not say which copy it means.
type roundTrip struct {
	smoothed, variation time.Duration
	measured            bool
	settled             bool // data has been acknowledged: the agent is listening
	backoff             uint // doublings of the wait

	shortest, shortestNow time.Duration // of the last window, and of the current one
	windowEnds            time.Time
}

// sample takes in one measurement, made at now.
func (r *roundTrip) sample(took time.Duration, now time.Time) {
	took = max(took, 0)
	r.backoff = 0
	if !r.measured {
		r.measured, r.smoothed, r.variation = true, took, took/2
		r.shortest, r.shortestNow, r.windowEnds = took, took, now.Add(minRTTWindow)
		return
	}
	r.variation += ((r.smoothed - took).Abs() - r.variation) / 4
	r.smoothed += (took - r.smoothed) / 8
	r.shortestNow = min(r.shortestNow, took)
	if now.After(r.windowEnds) {
		r.shortest, r.shortestNow, r.windowEnds = r.shortestNow, took, now.Add(minRTTWindow)
	}
	r.shortest = min(r.shortest, r.shortestNow)
}

// timeout is how long to wait for an acknowledgement before the message is sent again.
func (r *roundTrip) timeout() time.Duration {
	wait := startRTT
	if r.measured {
		wait = r.smoothed + max(granularity, 4*r.variation)
	}
	least := startRTO
	if r.settled {
		least = settledRTO
	}
	wait = max(wait, least)
	for range r.backoff {
		if wait *= 2; wait >= maximumRTO {
			return maximumRTO
		}
	}
	return min(wait, maximumRTO)
}

// reordering is how much later than a message its successors may be acknowledged before it counts as lost.
func (r *roundTrip) reordering() time.Duration {
	return r.smoothed + max(r.smoothed/4, granularity/2)
}

// backOff doubles the wait after a timeout, until the next measurement.
func (r *roundTrip) backOff() {
	if r.timeout() < maximumRTO {
		r.backoff++
	}
}
