package main

import (
	"bytes"
	"strings"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestReal plays some schedules over real sockets; what is drawn today was not drawn yesterday. A failure names its seed.
func TestReal(t *testing.T) {
	var out bytes.Buffer
	if err := run(t.Context(), []string{"-real", "-schedules", "24"}, &out); err != nil {
		t.Errorf("%v\n%s", err, &out)
	}
	if !strings.HasSuffix(out.String(), "\n24 schedules, 0 failed\n") {
		t.Errorf("the last line of\n%s", &out)
	}
}

// TestSeedsRepeat: the same seed is the same schedule, and not every seed is.
func TestSeedsRepeat(t *testing.T) {
	first, again, other := newSchedule(7), newSchedule(7), newSchedule(8)
	if first.String() != again.String() {
		t.Errorf("%v\n%v", &first, &again)
	}
	if first.String() == other.String() {
		t.Error("two seeds, one schedule")
	}
}

// TestFollow reads the report of a test run.
func TestFollow(t *testing.T) {
	var out bytes.Buffer
	tally, done := follow(strings.NewReader("=== RUN x\n    --- PASS: TestChaos/1\n    a.go:1: failed: SEED=3\n    a.go:2: from SEED=1: 12 schedules, 1 failed\nFAIL\n"), &out)
	if tally.played != 12 || tally.failed != 1 || !done || !strings.Contains(out.String(), "SEED=3") || strings.Contains(out.String(), "PASS") {
		t.Errorf("%+v %v %q", tally, done, &out)
	}
	if _, done := follow(strings.NewReader("panic: x\n"), &out); done {
		t.Error("a test that broke off counts as done")
	}
}

// TestLossIsSeen: the judge is not asleep.
func TestLossIsSeen(t *testing.T) {
	p := newPlay(&world{}, "", schedule{kind: basicPort, up: 50, down: 50})
	p.up[0].got, p.down[0].got = p.up[0].want, append([]byte(nil), p.down[0].want...)
	if err := p.end(t.Context()); err != nil {
		t.Errorf("nothing is missing, but: %v", err)
	}
	p.down[0].got[7] ^= 1
	if p.end(t.Context()) == nil {
		t.Error("a byte was changed, and nobody saw it")
	}
	p.events = []event{{what: restartAgent}} // may be cut, but not wrong
	if p.end(t.Context()) == nil {
		t.Error("a byte was changed before the cut, and nobody saw it")
	}
}
