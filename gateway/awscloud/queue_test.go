package awscloud

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// line is a queue of ten turns a second, none of which is later than a second, and who has come through it.
type line struct {
	cloud *Cloud
	tasks sync.WaitGroup

	mu      sync.Mutex
	served  []string
	refused []string
}

func newLine() *line {
	l := &line{}
	cfg := Config{StartRate: Rate{PerSecond: 10, Burst: 1}, MaxQueue: time.Second}.withDefaults()
	l.cloud = &Cloud{cfg: cfg, buckets: newBuckets(cfg)}
	return l
}

// call begins to wait, and is in the line when it returns.
func (l *line) call(ctx context.Context, person string) {
	info := callInfo{action: actionStartSession, account: "1", region: "r", person: person}
	l.tasks.Go(func() {
		err := l.cloud.take(ctx, info)
		l.mu.Lock()
		defer l.mu.Unlock()
		if err == nil {
			l.served = append(l.served, person)
			return
		}
		l.refused = append(l.refused, person+" "+string(err.(*authz.Refusal).Reason)) //nolint:errorlint,forcetypeassert // a test
	})
	synctest.Wait()
}

func (l *line) all(ctx context.Context, person string, n int) {
	for range n {
		l.call(ctx, person)
	}
}

// TestPeopleTakeTurns: who comes with one call waits for one call of each other person, and not for all of them.
func TestPeopleTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine()
		l.all(t.Context(), "ann", 5) // the first does not wait
		l.call(t.Context(), "bob")
		l.all(t.Context(), "cat", 2)
		l.tasks.Wait()
		want := []string{"ann", "ann", "bob", "cat", "ann", "cat", "ann", "ann"}
		if !slices.Equal(l.served, want) || len(l.refused) > 0 {
			t.Errorf("served %v, refused %v; want %v", l.served, l.refused, want)
		}
	})
}

// TestAFullQueueHasRoomForEverybody: the last call of whoever has most gives way, and nobody's who has no more than the others.
func TestAFullQueueHasRoomForEverybody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine()
		l.all(t.Context(), "ann", 12)
		if !slices.Equal(l.refused, []string{"ann throttled"}) {
			t.Fatalf("twelve calls for eleven turns: refused %v", l.refused)
		}
		began := time.Now()
		l.all(t.Context(), "bob", 5)
		l.all(t.Context(), "bob", 1) // no more: ann has as many
		if want := append(slices.Repeat([]string{"ann throttled"}, 6), "bob throttled"); !slices.Equal(l.refused, want) {
			t.Errorf("refused %v, want %v", l.refused, want)
		}
		l.tasks.Wait()
		if waited := time.Since(began); waited != time.Second {
			t.Errorf("ten turns took %s", waited)
		}
		want := append([]string{"ann"}, slices.Repeat([]string{"ann", "bob"}, 5)...)
		if !slices.Equal(l.served, want) {
			t.Errorf("served %v, want %v", l.served, want)
		}
	})
}

// TestWhoLeavesTheQueueLeavesTheirTurn to whoever comes next.
func TestWhoLeavesTheQueueLeavesTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLine()
		ctx, leave := context.WithCancel(t.Context())
		l.all(ctx, "ann", 11)
		leave()
		synctest.Wait()
		if want := slices.Repeat([]string{"ann timeout"}, 10); !slices.Equal(l.refused, want) {
			t.Fatalf("refused %v", l.refused)
		}
		began := time.Now()
		short, cancel := context.WithTimeout(t.Context(), 150*time.Millisecond)
		defer cancel()
		l.call(short, "bob")
		l.call(short, "cat") // the second turn is too late
		l.tasks.Wait()
		if want := []string{"ann", "bob"}; !slices.Equal(l.served, want) || time.Since(began) != 100*time.Millisecond {
			t.Errorf("served %v after %s, refused %v", l.served, time.Since(began), l.refused)
		}
		time.Sleep(time.Second) // in virtual time: turns that nobody takes are no harm
		l.all(t.Context(), "dan", 2)
		l.tasks.Wait()
		if want := []string{"ann", "bob", "dan", "dan"}; !slices.Equal(l.served, want) {
			t.Errorf("served %v", l.served)
		}
	})
}
