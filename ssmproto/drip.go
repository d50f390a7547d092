package ssmproto

import "time"

const (
	// shortGather is how long bulk that comes in small messages is let come together before it is read. To be woken costs several times what it costs to
	// handle a message of 1 KiB, and an agent sends 700 of them a second. The other side's timers take it for a part of the round trip (SPEC.md §4.2).
	shortGather = 10 * time.Millisecond
	// longGather is the same for bulk that goes on. A key that is typed on the same session is echoed so much later at most.
	longGather = 40 * time.Millisecond
	// gatherShare waits of a length is what bulk has to have lasted before there is one: somebody may be waiting for its end, which is not known beforehand, and
	// then waits an eighth longer at most.
	gatherShare = 8
)

const (
	// dripRun is how many reads in a row make a drip.
	dripRun = 16
	// longestRun is how many it takes after drips that were none.
	longestRun = 1024
	// dripFrames is how many messages a wait has to bring.
	dripFrames = 4
	// dripReads is how many reads of a drip there are for each that answers: those who send in bulk get a word from the peer now and then, for every 32 KiB with
	// SFTP. A conversation, of small files say, has several answers among as many acknowledgements and data.
	dripReads = 16
	// A read of a drip comes not sooner after the one before than dripLeast on average, and not later than dripMost; it brings dripBytes at most on average.
	dripLeast = 500 * time.Microsecond
	dripMost  = 10 * time.Millisecond
	dripBytes = 2 << 10
	// dripPause without a message ends a drip: what comes then is something else.
	dripPause = 200 * time.Millisecond
	// steadyRun is how many short waits have to pay before longer ones are tried.
	steadyRun = 8
)

// drip recognizes bulk that comes in small messages at a steady pace, from the agent's data or from its acknowledgements, and says how long to let it come
// together. It has no clock.
//
//	no wait ──16 reads at the pace of a drip──► short waits ──8 that pay──► long waits
//	        ◄──two in a row that do not──               ◄──two in a row that are no fuller for being longer──
//	        ◄──────────────── a pause, or the end of what was sent ─────────────
type drip struct {
	wait time.Duration // before the next read; 0 while there is no drip
	poor int           // waits in a row that did not pay
	run  int           // reads that it takes to believe in a drip; dripRun when zero
	last time.Time

	// of the reads so far without a wait
	reads, bytes int
	answers      int
	began        time.Time

	paid   int           // waits of the present length that have paid
	steady int           // short ones that it takes before longer ones are tried; steadyRun when zero
	frames int           // that all short ones have brought
	spent  time.Duration // in which they have
}

// note takes in a read from the network. Questions and answers are no drip: every wait would delay them.
func (d *drip) note(r reading) {
	took := r.ended.Sub(d.last)
	d.last = r.ended
	switch {
	case r.bulk < gatherShare*shortGather:
		d.stop()
	case d.wait == 0:
		d.watch(r, took)
	case took > dripPause:
		d.stop()
	case d.wait == shortGather:
		d.judge(r, took)
	default:
		d.judgeLong(r)
	}
}

// watch looks for the pattern of a drip in reads that did not wait.
func (d *drip) watch(r reading, took time.Duration) {
	if d.reads == 0 || r.filled || took > dripMost {
		d.reads, d.bytes, d.answers, d.began = 0, 0, 0, r.ended
	}
	d.reads++
	d.bytes += r.bytes
	if r.answers {
		d.answers++
	}
	run := max(d.run, dripRun)
	if d.reads < run {
		return
	}
	d.reads = 0
	if d.bytes <= run*dripBytes && d.answers <= run/dripReads && r.ended.Sub(d.began) >= time.Duration(run)*dripLeast {
		d.begin()
	}
}

// begin goes to short waits.
func (d *drip) begin() { d.wait, d.poor, d.paid, d.frames, d.spent = shortGather, 0, 0, 0, 0 }

// stop goes back to none.
func (d *drip) stop() { d.wait, d.reads = 0, 0 }

// judge ends the gathering when, twice in a row, it did not pay: there was too little, or an answer that was kept waiting, or so much that nobody needs to wait
// for it.
func (d *drip) judge(r reading, took time.Duration) {
	d.frames += r.frames
	d.spent += took
	much := r.bytes > bulkRead/4
	if r.frames < dripFrames || r.answers || much {
		if d.poor++; d.poor < 2 {
			return
		}
		if d.stop(); !much {
			d.run = min(2*max(d.run, dripRun), longestRun)
		}
		return
	}
	d.poor, d.run = 0, 0
	if d.paid++; d.paid >= max(d.steady, steadyRun) && r.bulk >= gatherShare*longGather {
		d.wait, d.paid = longGather, 0
	}
}

// judgeLong goes back to short waits when long ones, twice in a row, brought less than half of what the pace of the short ones promised. Whoever waits for us to
// read, for an answer or for room in a window, sends no more for our waiting longer; whoever does send more is not waiting. So answers do not count here.
func (d *drip) judgeLong(r reading) {
	if r.bulk < gatherShare*longGather {
		d.begin()
		return
	}
	promised := time.Duration(d.frames) * longGather / d.spent
	if 2*time.Duration(r.frames) >= promised && !r.filled {
		d.poor = 0
		if d.paid++; d.paid == steadyRun {
			d.steady = 0
		}
		return
	}
	if d.poor++; d.poor == 2 {
		d.steady = min(2*max(d.steady, steadyRun), longestRun)
		d.begin()
	}
}
