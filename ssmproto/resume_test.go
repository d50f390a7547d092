package ssmproto

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestResume(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		exchange(t, f, c, []byte("before"), []byte("before"))
		for range 3 {
			f.cut()
			exchange(t, f, c, noise(1, 5000), noise(2, 5000))
		}
		equal(t, "resumes", c.Stats().Resumes, 3)
		equal(t, "state", c.Stats().State, Open)
		f.with(func() { equal(t, "connections", len(f.openings), 4) })
		f.mu.Lock()
		defer f.mu.Unlock()
		for i, o := range f.openings {
			if o.ClientID != f.openings[0].ClientID || (i > 0 && o.RequestID == f.openings[i-1].RequestID) || o.ClientVersion != DefaultClientVersion {
				t.Errorf("opening %d: %+v after %+v", i, o, f.openings[0])
			}
			equal(t, "token", o.TokenValue, fmt.Sprintf("token-%d", i))
		}
		equal(t, "handshake messages", len(f.others), 1)
	})
}

func TestResumeDuringTheHandshake(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		var once sync.Once
		f.relay = func(toAgent bool, frame []byte) [][]byte {
			lost := false
			if toAgent {
				once.Do(func() { lost = true; f.cut() })
			}
			if lost {
				return nil
			}
			return [][]byte{frame}
		}
		c := f.dial()
		exchange(t, f, c, []byte("up"), []byte("down"))
	})
}

func TestResumeTriesForAWhile(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		attempts := 0
		f.resumeWith = func(context.Context) (Token, error) {
			if attempts++; attempts < 10 {
				return Token{}, errors.New("throttled")
			}
			return f.freshToken(), nil
		}
		f.cut()
		exchange(t, f, c, []byte("up"), []byte("down"))
		equal(t, "attempts", attempts, 10)
	})
}

func TestResumeGivesUp(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		cause := errors.New("no route")
		f.resumeWith = func(context.Context) (Token, error) { return Token{}, cause }
		start := time.Now()
		f.cut()
		_, err := c.Read(make([]byte, 1))
		if took := time.Since(start); !errors.Is(err, ErrConnectionLost) || !errors.Is(err, cause) || took < 5*time.Minute || took > 6*time.Minute {
			t.Errorf("after %v: %v", took, err)
		}
		_ = c.Close()
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 1) })
	})
}

// TestResumeOfConnectionsThatFall does not hammer a service that accepts connections and drops them.
func TestResumeOfConnectionsThatFall(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		calls := 0
		f.resumeWith = func(context.Context) (Token, error) { calls++; return NewToken("bad"), nil }
		f.cut()
		if _, err := c.Read(make([]byte, 1)); err == nil {
			t.Error("read nothing")
		}
		if calls < 20 || calls > 100 {
			t.Errorf("%d attempts in five minutes", calls)
		}
	})
}

func TestResumeOfASessionThatIsOver(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		f.resumeWith = func(context.Context) (Token, error) { return Token{}, fmt.Errorf("asking: %w", ErrSessionOver) }
		f.cut()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrSessionOver) {
			t.Errorf("%v", err)
		}
		_ = c.Close()
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 1) }) // it may only be resuming that is over
	})
}

func TestNoResumeWithoutTheMeans(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		g := f.grant()
		g.Resume = nil
		c, err := Dial(t.Context(), g, f.options())
		if err != nil {
			t.Fatal(err)
		}
		f.cut()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, ErrConnectionLost) {
			t.Errorf("%v", err)
		}
		_ = c.Close()
	})
}

// TestSilentServiceIsLost: a connection on which nothing comes, not even pongs, is given up; one with pongs only is not.
func TestSilentServiceIsLost(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		time.Sleep(24 * time.Hour)
		equal(t, "resumes of an idle session", c.Stats().Resumes, 0)
		f.with(func() {
			if f.pings < 24*60*2 {
				t.Errorf("%d pings in a day", f.pings)
			}
		})
		f.with(func() { f.deaf = true })
		time.Sleep(61 * time.Second)
		f.with(func() { f.deaf = false })
		time.Sleep(30 * time.Second)
		equal(t, "resumes after silence", c.Stats().Resumes, 1)
		exchange(t, f, c, []byte("up"), []byte("down"))
	})
}

func TestAgentThatAcknowledgesNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		f.with(func() { f.silent = true })
		mustWrite(t, c, []byte("x"))
		start := time.Now()
		_, err := c.Read(make([]byte, 1))
		if !errors.Is(err, ErrPeerSilent) || time.Since(start) != 5*time.Minute {
			t.Errorf("after %v: %v", time.Since(start), err)
		}
		_ = c.Close()
	})
}

// TestDeadInstance is noticed by a session that only listens, once it is told to ask, and not by one that is answered.
func TestDeadInstance(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.PeerCheck, o.PeerTimeout = time.Minute, 20*time.Second })
		time.Sleep(24 * time.Hour)
		equal(t, "state after a silent day", c.Stats().State, Open)
		f.with(func() {
			if n := f.arrivals[0] - 1; n < 24*60-5 || n > 24*60 {
				t.Errorf("%d questions in a day", n)
			}
		})
		f.with(func() { f.silent = true })
		f.cut() // an outage does not count
		start := time.Now()
		_, err := c.Read(make([]byte, 1))
		if took := time.Since(start); !errors.Is(err, ErrPeerSilent) || took < 20*time.Second || took > 81*time.Second {
			t.Errorf("after %v: %v", took, err)
		}
		_ = c.Close()
		f.with(func() { equal(t, "TerminateSession calls", f.terminated, 1) })
	})
}

// TestDeadInstanceThatIsPaused ends although each new connection is paused at once.
func TestDeadInstanceThatIsPaused(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial(func(o *Options) { o.PeerTimeout = time.Minute })
		f.with(func() { f.silent = true })
		mustWrite(t, c, []byte("x"))
		f.resumeWith = func(context.Context) (Token, error) {
			time.AfterFunc(time.Millisecond, func() { f.service(PausePublication, "0") })
			return f.freshToken(), nil
		}
		f.service(PausePublication, "0")
		start := time.Now()
		_, err := c.Read(make([]byte, 1))
		if took := time.Since(start); !errors.Is(err, ErrPeerSilent) || took < time.Minute || took > 2*time.Minute {
			t.Errorf("after %v: %v", took, err)
		}
		_ = c.Close()
	})
}

func TestPause(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		c := f.dial()
		mustWrite(t, c, []byte("1"))
		f.await("the first", func() bool { return len(f.received) == 1 })
		f.service(PausePublication, "0")
		synctest.Wait()
		mustWrite(t, c, []byte("2"))
		time.Sleep(10 * time.Second)
		f.with(func() { equal(t, "arrived in the pause", string(f.received), "1") })
		f.service(StartPublication, "0")
		f.await("the second", func() bool { return len(f.received) == 2 })
		equal(t, "resumes", c.Stats().Resumes, 0)

		f.service(PausePublication, "0")
		synctest.Wait()
		mustWrite(t, c, []byte("3"))
		f.write([]byte("news")) // any stream message ends the pause, too
		mustRead(t, c, []byte("news"))
		f.await("the third", func() bool { return len(f.received) == 3 })
		f.with(func() { equal(t, "news acknowledged", f.acks[2] > 0, true) })

		f.service(PausePublication, "0")
		synctest.Wait()
		start := time.Now()
		mustWrite(t, c, []byte("4"))
		f.await("the fourth", func() bool { return len(f.received) == 4 })
		equal(t, "pause that nobody ended lasted", time.Since(start), pauseLimit)
		equal(t, "resumes", c.Stats().Resumes, 1)
	})
}

// TestPace counts every message of the client, data and acknowledgements, in virtual time.
func TestPace(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		var mu sync.Mutex
		var arrivals []time.Time
		f.relay = func(toAgent bool, frame []byte) [][]byte {
			if toAgent {
				mu.Lock()
				arrivals = append(arrivals, time.Now())
				mu.Unlock()
			}
			return [][]byte{frame}
		}
		c := f.dial(func(o *Options) { o.MessageRate = 0 })
		exchange(t, f, c, noise(1, 2_000_000), noise(2, 1_000_000))
		mu.Lock()
		defer mu.Unlock()
		worst, from := 0, 0
		for to := range arrivals {
			for arrivals[to].Sub(arrivals[from]) > 2*time.Second {
				from++
			}
			worst = max(worst, to-from+1)
		}
		if worst > 2*900+serviceBurst+1 || worst < 1500 {
			t.Errorf("%d messages within two seconds", worst)
		}
	})
}

// faultPlan is how badly the service behaves.
type faultPlan struct {
	seed                     uint64
	drop, double, swap, cuts int // out of 1000 frames each
	payload                  int
	rate                     int
}

// TestBytesSurviveEverything keeps the promise of the package: every byte once and in order, or an error.
func TestBytesSurviveEverything(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		plan := faultPlan{
			seed:    rapid.Uint64().Draw(rt, "seed"),
			drop:    rapid.IntRange(0, 200).Draw(rt, "drop"),
			double:  rapid.IntRange(0, 200).Draw(rt, "double"),
			swap:    rapid.IntRange(0, 200).Draw(rt, "swap"),
			cuts:    rapid.SampledFrom([]int{0, 0, 5, 20}).Draw(rt, "cuts"),
			payload: rapid.SampledFrom([]int{1, 100, 1024, 9000}).Draw(rt, "payload"),
			rate:    rapid.SampledFrom([]int{-1, 900}).Draw(rt, "rate"),
		}
		synctest.Test(t, func(t *testing.T) { plan.play(t) })
		if t.Failed() {
			rt.Fatalf("%+v", plan)
		}
	})
}

func (p faultPlan) play(t *testing.T) {
	f := newFake(t)
	f.relay = p.relay(f)
	f.with(func() { f.complete = true })
	c := f.dial(func(o *Options) { o.MaxPayload, o.MessageRate, o.HandshakeTimeout = p.payload, p.rate, 5*time.Minute })
	size := min(60_000, 400*p.payload)
	for range 2 {
		exchange(t, f, c, noise(p.seed, size), noise(p.seed+1, size))
	}
	f.with(func() {
		for seq, n := range f.arrivals {
			if n > 100 {
				t.Errorf("message %d was sent %d times", seq, n)
			}
		}
	})
}

// relay is the service: it loses, doubles, reorders and cuts, each direction by its own dice.
func (p faultPlan) relay(f *fake) func(bool, []byte) [][]byte {
	dice := map[bool]*rand.Rand{true: rand.New(rand.NewPCG(p.seed, 1)), false: rand.New(rand.NewPCG(p.seed, 2))}
	late := map[bool][]byte{}
	var mu sync.Mutex
	return func(toAgent bool, frame []byte) [][]byte {
		mu.Lock()
		defer mu.Unlock()
		throw := func(chance int) bool { return dice[toAgent].IntN(1000) < chance }
		if throw(p.cuts) {
			f.cut()
		}
		var out [][]byte
		switch {
		case throw(p.drop):
		case late[toAgent] == nil && throw(p.swap):
			late[toAgent] = frame
		case throw(p.double):
			out = [][]byte{frame, frame}
		default:
			out = [][]byte{frame}
		}
		if late[toAgent] != nil && len(out) > 0 {
			out = append(out, late[toAgent])
			late[toAgent] = nil
		}
		return out
	}
}

func TestNumbersOfMessagesGoOnAfterResume(t *testing.T) {
	inBubble(t, func(t *testing.T, f *fake) {
		var mu sync.Mutex
		var seen []uint64
		f.relay = func(toAgent bool, frame []byte) [][]byte {
			if toAgent {
				if m, err := Parse(frame); err == nil && m.Type == InputStreamData {
					mu.Lock()
					defer mu.Unlock()
					seen = append(seen, binary.BigEndian.Uint64(frame[offsetSequence:]))
				}
			}
			return [][]byte{frame}
		}
		c := f.dial()
		exchange(t, f, c, []byte("a"), []byte("a"))
		f.cut()
		exchange(t, f, c, []byte("b"), []byte("b"))
		mu.Lock()
		defer mu.Unlock()
		equal(t, "numbers", seen, "[0 1 2]")
	})
}
