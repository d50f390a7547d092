package stripe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"testing"
	"time"
)

// TestNoRoomIsNoFailure: a lane that somebody else needs for a while is asked for again later, where three that died mean that none is.
func TestNoRoomIsNoFailure(t *testing.T) {
	for _, test := range []struct {
		why   error
		asked int32 // how often, when all that may be asked for at once has been
		after int32 // and when the time to ask again has come
	}{
		{fmt.Errorf("no lane: %w", ErrNoRoom), 2, 4},
		{errors.New("refused"), 3, 3},
	} {
		t.Run(test.why.Error(), func(t *testing.T) {
			var asked atomic.Int32
			near, far := pipe(t)
			p := New(near, far, Config{MaxLanes: 3, Open: func(context.Context) (io.ReadWriteCloser, error) {
				asked.Add(1)
				return nil, test.why
			}})
			askAll := func() {
				for p.openLanes(t.Context()); p.opening > 0; p.openLanes(t.Context()) {
					p.laneOpened(<-p.opened)
				}
			}
			askAll()
			if got := asked.Load(); got != test.asked {
				t.Errorf("asked %d times, want %d", got, test.asked)
			}
			p.roomFrom = time.Now()
			askAll()
			if got := asked.Load(); got != test.after {
				t.Errorf("asked %d times in the end, want %d", got, test.after)
			}
			p.closeLanes()
			near.Close()
			p.Wait()
		})
	}
}
