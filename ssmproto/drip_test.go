package ssmproto

import (
	"testing"
	"time"
)

const noGather = time.Duration(0)

// drips feeds d with count readings that come every gap, each with so many messages of size bytes; it gives the time of the last.
func drips(d *drip, from time.Time, count int, gap time.Duration, frames, size int, answers bool) time.Time {
	for range count {
		from = from.Add(gap)
		d.note(reading{ended: from, bytes: frames * size, frames: frames, about: about{answers, time.Hour}})
	}
	return from
}

// dripping is a drip that has just been recognized.
func dripping(t *testing.T) (*drip, time.Time) {
	t.Helper()
	var d drip
	now := drips(&d, epoch, dripRun, time.Millisecond, 1, 300, false)
	equal(t, "wait for a drip", d.wait, shortGather)
	return &d, now
}

// steadily is a drip that has been let come together for long.
func steadily(t *testing.T) (*drip, time.Time) {
	t.Helper()
	d, now := dripping(t)
	now = drips(d, now, steadyRun, shortGather, 9, 300, false)
	equal(t, "wait for a steady drip", d.wait, longGather)
	return d, now
}

func TestDripIsRecognised(t *testing.T) {
	for _, c := range []struct {
		name    string
		gap     time.Duration
		size    int
		answers bool
		want    time.Duration
	}{
		{"the agent's pace", 1400 * time.Microsecond, 1144, false, shortGather},
		{"acknowledgements at the permitted rate", 1100 * time.Microsecond, 302, false, shortGather},
		{"keystrokes", 30 * time.Millisecond, 200, false, 0},
		{"a fast stream of small messages", 100 * time.Microsecond, 1144, false, 0},
		{"a stream of large messages", time.Millisecond, 32 << 10, false, 0},
		{"questions and answers", 1400 * time.Microsecond, 1144, true, 0},
	} {
		var d drip
		drips(&d, epoch, dripRun, c.gap, 1, c.size, c.answers)
		equal(t, c.name, d.wait, c.want)
	}
}

// TestDripThatDoesNotPay is left again, and believed less easily the next time, until one has paid.
func TestDripThatDoesNotPay(t *testing.T) {
	d, now := dripping(t)
	now = drips(d, now, 1, shortGather, 2, 300, false)
	equal(t, "after one thin wait", d.wait, shortGather)
	now = drips(d, now, 1, shortGather, 2, 300, false)
	equal(t, "after two thin waits", d.wait, noGather)
	now = drips(d, now, 2*dripRun-1, time.Millisecond, 1, 300, false)
	equal(t, "before the longer run is over", d.wait, noGather)
	now = drips(d, now, 1, time.Millisecond, 1, 300, false)
	equal(t, "after the longer run", d.wait, shortGather)
	now = drips(d, now, 1, shortGather, 9, 1144, false)
	now = drips(d, now, 2, shortGather, 40, 1144, false)
	equal(t, "of what comes fast", d.wait, noGather)
	drips(d, now, dripRun, time.Millisecond, 1, 300, false)
	equal(t, "again", d.wait, shortGather)
}

// TestConversationIsNoDrip has the pattern of small files that are uploaded: some acknowledgements, then the answer.
func TestConversationIsNoDrip(t *testing.T) {
	var d drip
	now := epoch
	for range 100 {
		now = drips(&d, now, 5, time.Millisecond, 1, 302, false)
		now = drips(&d, now, 1, time.Millisecond, 1, 200, true)
		equal(t, "wait in a conversation", d.wait, noGather)
	}
}

// TestConversationEndsTheGathering although each wait brings many messages.
func TestConversationEndsTheGathering(t *testing.T) {
	d, now := dripping(t)
	now = drips(d, now, 1, shortGather, 9, 302, true)
	now = drips(d, now, 3, shortGather, 9, 302, false)
	now = drips(d, now, 1, shortGather, 9, 302, true)
	equal(t, "wait in bulk that is answered now and then", d.wait, shortGather)
	now = drips(d, now, 1, shortGather, 9, 302, true)
	equal(t, "wait in a conversation", d.wait, noGather)
	drips(d, now, dripRun, time.Millisecond, 1, 302, false)
	equal(t, "again as soon as at first", d.wait, noGather)
}

// TestLongWaitsBringMore, whether or not some of it answers: an agent that goes on at its pace is not waiting for us.
func TestLongWaitsBringMore(t *testing.T) {
	d, now := steadily(t)
	now = drips(d, now, 100, longGather, 36, 300, true)
	equal(t, "at the old pace", d.wait, longGather)
	now = drips(d, now, 1, longGather, 17, 300, false)
	now = drips(d, now, 1, longGather, 36, 300, false)
	now = drips(d, now, 1, longGather, 17, 300, false)
	equal(t, "with a lapse now and then", d.wait, longGather)
	drips(d, now, 1, longGather, 17, 300, false)
	equal(t, "when they are no fuller", d.wait, shortGather)
}

// TestLongWaitsAreTriedLessOften with whoever has been held up by them, until they have suited.
func TestLongWaitsAreTriedLessOften(t *testing.T) {
	d, now := steadily(t)
	now = drips(d, now, 2, longGather, 9, 300, false)
	equal(t, "of a conversation", d.wait, shortGather)
	now = drips(d, now, 2*steadyRun-1, shortGather, 9, 300, false)
	equal(t, "before the longer run is over", d.wait, shortGather)
	now = drips(d, now, 1, shortGather, 9, 300, false)
	equal(t, "after the longer run", d.wait, longGather)
	now = drips(d, now, steadyRun, longGather, 36, 300, false)
	now = drips(d, now, 2, longGather, 9, 300, false)
	drips(d, now, 2*steadyRun, shortGather, 9, 300, false)
	equal(t, "after the longer run again, and no longer one", d.wait, longGather)
}

// TestPauseEndsADrip: what comes afterwards may be an answer to a key.
func TestPauseEndsADrip(t *testing.T) {
	for _, begin := range []func(*testing.T) (*drip, time.Time){dripping, steadily} {
		d, now := begin(t)
		drips(d, now, 1, dripPause+1, 9, 300, false)
		equal(t, "wait after a pause", d.wait, noGather)
	}
}

// TestWaitsAreAShareOfTheBulk that there has been: its end, which somebody may be waiting for, is not known beforehand.
func TestWaitsAreAShareOfTheBulk(t *testing.T) {
	var d drip
	now := epoch
	reads := func(count int, gap time.Duration, frames int, bulk time.Duration) {
		for range count {
			now = now.Add(gap)
			d.note(reading{ended: now, bytes: 300 * frames, frames: frames, about: about{bulk: bulk}})
		}
	}
	const short, long = gatherShare * shortGather, gatherShare * longGather
	reads(10*dripRun, time.Millisecond, 1, short-1)
	equal(t, "of what has begun", d.wait, noGather)
	reads(dripRun, time.Millisecond, 1, short)
	equal(t, "of what has gone on", d.wait, shortGather)
	reads(10*steadyRun, shortGather, 9, long-1)
	equal(t, "of what has not gone on for long", d.wait, shortGather)
	reads(1, shortGather, 9, long)
	equal(t, "of what has", d.wait, longGather)
	reads(1, longGather, 36, long-1)
	equal(t, "when the longer of two bulks has ended", d.wait, shortGather)
	reads(1, shortGather, 9, 0)
	equal(t, "when both have", d.wait, noGather)
}
