package agent

import (
	"slices"
	"time"
)

// Timers and room for output (SPEC.md §4.2, §4.3).
const (
	resendTick     = 100 * time.Millisecond
	initialRTT     = 100 * time.Millisecond
	initialRTO     = 200 * time.Millisecond
	rttGranularity = 10 * time.Millisecond
	maxRTO         = time.Second
	maxOutgoing    = 100_000 // messages
)

// outgoing remembers what has been sent and not acknowledged. It has no clock and no lock.
type outgoing struct {
	unacked  []unacked // by sequence number
	rtt      time.Duration
	rttVar   time.Duration
	rto      time.Duration
	resendAs func(*outgoing, time.Time) []int
}

type unacked struct {
	seq    int64
	frame  []byte
	sentAt time.Time
}

func newOutgoing(resendAll bool) outgoing {
	o := outgoing{rtt: initialRTT, rto: initialRTO, resendAs: (*outgoing).overdueHead}
	if resendAll {
		o.resendAs = (*outgoing).overdue
	}
	return o
}

// add remembers a frame. Numbers must increase. What does not fit is sent but not remembered (SPEC.md §4.3).
func (o *outgoing) add(seq int64, frame []byte, now time.Time) {
	if len(o.unacked) < maxOutgoing {
		o.unacked = append(o.unacked, unacked{seq, frame, now})
	}
}

// acknowledged forgets a message and learns from how long it took, retransmitted or not (SPEC.md §4.2).
func (o *outgoing) acknowledged(seq int64, now time.Time) {
	at, found := slices.BinarySearchFunc(o.unacked, seq, func(u unacked, seq int64) int { return int(u.seq - seq) })
	if !found {
		return
	}
	o.sample(now.Sub(o.unacked[at].sentAt))
	if at == 0 { // nearly always: no copying
		o.unacked[0] = unacked{}
		o.unacked = o.unacked[1:]
		return
	}
	o.unacked = slices.Delete(o.unacked, at, at+1)
}

func (o *outgoing) sample(took time.Duration) {
	o.rttVar = o.rttVar*3/4 + (o.rtt-took).Abs()/4
	o.rtt = o.rtt*7/8 + took/8
	o.rto = min(o.rtt+max(rttGranularity, 4*o.rttVar), maxRTO)
}

// due returns the frames to send again now.
func (o *outgoing) due(now time.Time) [][]byte {
	var frames [][]byte
	for _, i := range o.resendAs(o, now) {
		o.unacked[i].sentAt = now
		frames = append(frames, o.unacked[i].frame)
	}
	return frames
}

func (o *outgoing) overdueHead(now time.Time) []int {
	if len(o.unacked) > 0 && now.Sub(o.unacked[0].sentAt) > o.rto {
		return []int{0}
	}
	return nil
}

func (o *outgoing) overdue(now time.Time) []int {
	var due []int
	for i := range o.unacked {
		if now.Sub(o.unacked[i].sentAt) > o.rto {
			due = append(due, i)
		}
	}
	return due
}
