package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// playReal plays schedules over real sockets, some at a time, each worker in a world of its own: setting the faults of one session throws
// the dice of all in the same world anew.
func playReal(ctx context.Context, l limits, out io.Writer) (t tally, err error) {
	workers := max(1, l.workers)
	if l.time == 0 {
		workers = min(workers, max(1, l.schedules))
	}
	errs := make(chan error, workers)
	until := time.Now().Add(l.time)
	var next atomic.Uint64
	var mu sync.Mutex
	var working sync.WaitGroup
	for range workers {
		working.Go(func() {
			w, worldErr := newWorld()
			if worldErr != nil {
				errs <- worldErr
				return
			}
			defer func() { errs <- w.close() }()
			for ctx.Err() == nil {
				n := next.Add(1) - 1
				if l.time > 0 && !time.Now().Before(until) || l.time == 0 && n >= uint64(l.schedules) {
					return
				}
				s := newSchedule(l.seed + n)
				machine, failure := w.newMachine(n)
				if failure == nil {
					failure = newPlay(w, machine, s).run(ctx)
				}
				if ctx.Err() != nil {
					return
				}
				mu.Lock()
				t.played++
				if failure != nil {
					t.failed++
					fmt.Fprintf(out, "failed: SEED=%d: %v\n  %v\n", s.seed, failure, &s)
				}
				mu.Unlock()
			}
		})
	}
	working.Wait()
	close(errs)
	for e := range errs {
		err = errors.Join(err, e)
	}
	fmt.Fprintf(out, "over real sockets, from SEED=%d: %d schedules, %d failed\n", l.seed, t.played, t.failed)
	return t, errors.Join(context.Cause(ctx), err)
}
