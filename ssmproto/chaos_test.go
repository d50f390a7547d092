package ssmproto

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"runtime"
	"testing"
	"testing/synctest"
	"time"
)

var (
	chaosSchedules = flag.Int("schedules", 0, "how many schedules TestChaos plays; 0 is 300, or 1 with -seed")
	chaosSeconds   = flag.Int("seconds", 0, "play schedules for that long instead")
	chaosSeed      = flag.Uint64("seed", 0, "the seed of the first schedule; 0 draws one")
)

// TestChaos keeps the promise of the package in virtual time, against random schedules of trouble: each byte once and in order, or an error that
// says why not. A failure names its seed; -seed plays that schedule again.
func TestChaos(t *testing.T) {
	seed, schedules := *chaosSeed, *chaosSchedules
	switch {
	case schedules > 0:
	case seed > 0:
		schedules = 1
	default:
		schedules = 300
	}
	if seed == 0 {
		seed = rand.Uint64N(1<<48) + 1
	}
	until := time.Now().Add(time.Duration(*chaosSeconds) * time.Second)
	played, failed := 0, 0
	for more := true; more; more = played < schedules && *chaosSeconds == 0 || time.Now().Before(until) {
		plan := newChaosPlan(seed + uint64(played))
		played++
		bubble := synctest.Test
		if plan.kind == muxedPort {
			bubble = inMuxBubble
		}
		if !t.Run(fmt.Sprint(plan.seed), func(t *testing.T) { bubble(t, plan.play) }) {
			failed++
			t.Logf("failed: SEED=%d: %v", plan.seed, &plan)
		}
	}
	t.Logf("from SEED=%d: %d schedules, %d failed", seed, played, failed)
}

// inMuxBubble is synctest.Test for what uses smux, which keeps channels for its next session in a sync.Pool. A channel may not leave the bubble it was made in:
// the next session, of whatever test, would end the process. And one from without would stop the bubble's clock.
func inMuxBubble(t *testing.T, f func(*testing.T)) {
	t.Helper()
	emptyPools()
	defer emptyPools()
	synctest.Test(t, f)
}

// emptyPools collects twice, because a sync.Pool keeps what it has for one collection more.
func emptyPools() {
	runtime.GC()
	runtime.GC()
}
