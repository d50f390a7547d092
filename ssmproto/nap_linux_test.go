package ssmproto

import (
	"testing"
	"time"
)

// TestNap waits at least as long as it was told, with a timer, after having been closed, and without one.
func TestNap(t *testing.T) {
	var n nap
	sleep := func(what string) {
		t.Helper()
		began := time.Now()
		n.sleep(2 * time.Millisecond)
		if took := time.Since(began); took < 2*time.Millisecond {
			t.Errorf("%s: woke after %v", what, took)
		}
	}
	n.sleep(0)
	equal(t, "a timer for no time", n.timer == nil, true)
	sleep("first")
	sleep("again")
	equal(t, "a timer", n.timer != nil, true)
	n.close()
	n.close()
	equal(t, "a timer after close", n.timer == nil, true)
	sleep("after close")
	_ = n.timer.Close()
	sleep("with a timer that fails")
	n.close()
}
