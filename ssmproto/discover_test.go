package ssmproto

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// discovering is a session that tries payloads up to 16 KiB over a path that carries up to most bytes; refuse is what becomes of larger ones.
func discovering(f *fake, most int, refuse func()) *Conn {
	f.discovers = true
	f.relay = func(toAgent bool, frame []byte) [][]byte {
		if m, err := Parse(frame); toAgent && err == nil && len(m.Payload) > most {
			refuse()
			return nil
		}
		return [][]byte{frame}
	}
	return f.dial(func(o *Options) { o.DiscoverPayload, o.MessageRate = 16<<10, 900 })
}

// sizesOfBulk uploads for a while, and gives the sizes of the last messages and whether the bytes are right.
func sizesOfBulk(t *testing.T, f *fake, c *Conn) []int {
	t.Helper()
	sent := 0
	for range 20 {
		part := noise(1, 200_000)
		mustWrite(t, c, part)
		sent += len(part)
		f.await("the data", func() bool { return len(f.received) >= sent })
		time.Sleep(time.Second) // virtual
	}
	var last []int
	f.with(func() {
		for n := range 20 {
			if string(f.received[n*200_000:(n+1)*200_000]) != string(noise(1, 200_000)) {
				t.Fatalf("part %d is not what was written", n)
			}
		}
		equal(t, "bytes", len(f.received), sent)
		last = slices.Clone(f.sizes[len(f.sizes)-5:])
	})
	return last
}

func TestDiscoveryTakesWhatThePathCarries(t *testing.T) {
	for _, c := range []struct {
		most, want int
		probed     []int
	}{
		{1024, 1024, nil},
		{5000, 4096, []int{2048, 4096}},
		{1 << 20, 16 << 10, []int{2048, 4096, 8192, 16384}},
	} {
		inBubble(t, func(t *testing.T, f *fake) {
			conn := discovering(f, c.most, func() {})
			equal(t, "largest message", slices.Max(sizesOfBulk(t, f, conn)), c.want)
			equal(t, "discovered", conn.Stats().MaxPayload, c.want)
			equal(t, "resumptions", conn.Stats().Resumes, 0)
			f.with(func() {
				if !slices.Equal(f.probed, c.probed) {
					t.Errorf("probes that arrived: %v, want %v", f.probed, c.probed)
				}
			})
		})
	}
}

// TestDiscoveryThatCostsTheConnection: the service closes it at every message of more than 5000 bytes. It does so once.
func TestDiscoveryThatCostsTheConnection(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := discovering(f, 5000, f.cut)
		equal(t, "largest message", slices.Max(sizesOfBulk(t, f, c)), 4096)
		equal(t, "resumptions", c.Stats().Resumes, 1)
	})
}

// TestDiscoveryRepeatsALostProbe: one that is lost like any message proves nothing.
func TestDiscoveryRepeatsALostProbe(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		lost := 0
		c := discovering(f, 1<<20, func() {})
		f.with(func() {
			all := f.relay
			f.relay = func(toAgent bool, frame []byte) [][]byte {
				if m, err := Parse(frame); toAgent && err == nil && len(m.Payload) == 4096 && lost < probeTries-1 {
					lost++
					return nil
				}
				return all(toAgent, frame)
			}
		})
		equal(t, "largest message", slices.Max(sizesOfBulk(t, f, c)), 16<<10)
		equal(t, "lost probes", lost, probeTries-1)
	})
}

// TestNothingIsTriedUnasked: without the option, and in a session that sends little, every message has the usual size.
func TestNothingIsTriedUnasked(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		f.discovers = true
		c := f.dial()
		equal(t, "largest message", slices.Max(sizesOfBulk(t, f, c)), 1024)
		f.with(func() { equal(t, "probes", len(f.probed), 0) })
	})
	inBubble(t, func(t *testing.T, f *fake) {
		c := discovering(f, 1<<20, func() {})
		mustWrite(t, c, noise(1, discoverAfter-1))
		f.await("the data", func() bool { return len(f.received) == discoverAfter-1 })
		time.Sleep(time.Hour) // virtual
		f.with(func() { equal(t, "probes", len(f.probed), 0) })
	})
}

// TestClosingDuringAProbe: a probe that waits for its answer holds nothing up.
func TestClosingDuringAProbe(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		tried := errors.New("not tried")
		c := discovering(f, 1024, func() { f.with(func() { tried = nil }) })
		mustWrite(t, c, noise(1, 2*discoverAfter))
		f.await("a probe", func() bool { return tried == nil })
		began := time.Now()
		equal(t, "close", c.Close(), nil)
		if took := time.Since(began); took > goodbyeLimit+time.Second {
			t.Errorf("it took %v", took)
		}
		f.with(func() { equal(t, "bytes", len(f.received), 2*discoverAfter) })
	})
}
