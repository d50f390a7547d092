package ssmproto

import (
	"bytes"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestKeystrokeBesideBulk measures, in virtual time, how long one byte takes to the agent that is written behind a bulk upload on the same Conn. It is
// the delay of the path, and what may wait at the permitted rate.
func TestKeystrokeBesideBulk(t *testing.T) {
	for _, oneWay := range []time.Duration{time.Millisecond, 25 * time.Millisecond, 100 * time.Millisecond} {
		synctest.Test(t, func(t *testing.T) {
			delays, rate := keystrokes(t, oneWay)
			slices.Sort(delays)
			p50, p99 := delays[len(delays)/2], delays[len(delays)*99/100]
			t.Logf("one way %v: p50 %v, p99 %v, bulk at %.0f messages/s", oneWay, p50, p99, rate)
			if limit := oneWay + 25*time.Millisecond; p99 > limit {
				t.Errorf("one way %v: p99 is %v, want at most %v", oneWay, p99, limit)
			}
			if rate < 850 {
				t.Errorf("one way %v: the bulk moved at %.0f messages/s only", oneWay, rate)
			}
		})
	}
}

// keystrokes writes a byte twice a second beside bulk, on a path of the given delay, for 10 s.
func keystrokes(t *testing.T, oneWay time.Duration) (delays []time.Duration, rate float64) {
	f := newFake(t)
	var links [2]*chaosLink
	links[0] = newChaosLink(linkPlan{delay: oneWay}, 1, f.stop, f.take)
	links[1] = newChaosLink(linkPlan{delay: oneWay}, 2, f.stop, f.deliver)
	for _, l := range links {
		f.serving.Go(l.run)
	}
	f.relay = func(toAgent bool, frame []byte) [][]byte {
		if toAgent {
			links[0].take(frame)
		} else {
			links[1].take(frame)
		}
		return nil
	}
	var mu sync.Mutex
	var pressed time.Time
	arrived := 0
	f.onData = func(p []byte) {
		mu.Lock()
		defer mu.Unlock()
		arrived++
		if bytes.IndexByte(p, 'x') >= 0 { // alone, or with bulk behind it
			delays = append(delays, time.Since(pressed))
		}
	}
	c := f.dial(func(o *Options) { o.MessageRate = 900 })
	var writing sync.WaitGroup
	writing.Go(func() {
		bulk := make([]byte, 1024)
		for {
			if _, err := c.Write(bulk); err != nil {
				return
			}
		}
	})
	time.Sleep(2 * time.Second) // the burst is over
	mu.Lock()
	arrived = 0
	mu.Unlock()
	start := time.Now()
	for range 20 {
		mu.Lock()
		pressed = time.Now()
		mu.Unlock()
		mustWrite(t, c, []byte{'x'})
		time.Sleep(500 * time.Millisecond)
	}
	mu.Lock()
	rate = float64(arrived) / time.Since(start).Seconds()
	mu.Unlock()
	_ = c.CloseNow()
	writing.Wait()
	return delays, rate
}
