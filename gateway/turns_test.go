package gateway

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func TestLoginsToAMachineTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		var logins sync.WaitGroup
		var now, most, told atomic.Int32
		for range 3 * loginsPerMachine {
			logins.Go(func() {
				leave, err := turns.enter(t.Context(), "a/r/i", func(int) { told.Add(1) })
				if err != nil {
					t.Error(err)
					return
				}
				if n := now.Add(1); n > most.Load() {
					most.Store(n)
				}
				time.Sleep(time.Second)
				now.Add(-1)
				leave()
				leave() // the second does nothing
			})
		}
		began := time.Now()
		leave, err := turns.enter(t.Context(), "a/r/j", nil) // another machine's gate is open
		if err != nil || time.Since(began) != 0 {
			t.Errorf("waited %s at another machine, %v", time.Since(began), err)
		}
		leave()
		logins.Wait()
		if most.Load() != loginsPerMachine || told.Load() != 2*loginsPerMachine || time.Since(began) != 3*time.Second {
			t.Errorf("%d at once, %d told, all in %s", most.Load(), told.Load(), time.Since(began))
		}
		if len(turns.gates) != 0 {
			t.Errorf("%d gates are left", len(turns.gates))
		}
	})
}

func TestWhoGivesUpWaitingLeavesNoTurnTaken(t *testing.T) {
	turns := newTurns()
	var leaves []func()
	for range loginsPerMachine {
		leave, err := turns.enter(t.Context(), "a/r/i", nil)
		if err != nil {
			t.Fatal(err)
		}
		leaves = append(leaves, leave)
	}
	ctx, cancel := context.WithCancel(t.Context())
	if _, err := turns.enter(ctx, "a/r/i", func(ahead int) {
		if ahead != loginsPerMachine {
			t.Errorf("told of %d", ahead)
		}
		cancel()
	}); err == nil {
		t.Error("a turn beyond the limit")
	}
	for _, leave := range leaves {
		leave()
	}
	if len(turns.gates) != 0 {
		t.Error("the gate is left")
	}
}
