package compat

import (
	"bytes"
	"os"
	"testing"
	"time"
)

// What a scenario may take longer on a way than on the plain connection. It is no measure of speed, which package bench takes, but of standing still: an end that only
// some timer brings about is right in the end, and a person has given up by then.
const (
	slowFactor = 5
	slowSlack  = 10 * time.Second
	slowTries  = 3 // each beside the plain connection, so that a busy machine is no reason
)

// classes of time are what a person tells apart, by the order of magnitude at which they end.
var classes = []struct {
	below time.Duration
	name  string
}{{time.Second, "at once"}, {10 * time.Second, "seconds"}, {100 * time.Second, "tens of seconds"}}

// classOf names the class.
func classOf(took time.Duration) string {
	for _, class := range classes {
		if took < class.below {
			return class.name
		}
	}
	return "minutes"
}

// tooSlow tells a time that is of another class than the plain connection's.
func tooSlow(took, control time.Duration) bool { return took > slowFactor*control+slowSlack }

// standsStill tells whether the way is too slow, and is again each time that the scenario is done once more on both. It fails no test: times are told, in
// docs/compatibility.md, where TestDocument takes no row that says slow.
func (s *scenario) standsStill(t *testing.T, w *world, r route, took, control time.Duration) bool {
	t.Helper()
	for try := 1; tooSlow(took, control); try++ {
		t.Logf("it took %v beyond its logins, and %v on the plain connection", took, control)
		if try == slowTries {
			return true
		}
		_, control = s.play(t, w, r.control())
		_, took = s.play(t, w, r)
	}
	return false
}

// stopwatch takes the time of a scenario beyond its logins: those that ssh, scp and sftp make, at what one costs on the same way at the same time.
type stopwatch struct {
	logins string // a file to which each of them adds a line
	login  time.Duration
	began  time.Time
}

// watch begins. The time is nothing where only what happens counts, in make test.
func (w *world) watch(t *testing.T, r route) *stopwatch {
	t.Helper()
	logins, err := os.CreateTemp(w.dir, "logins")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(logins.Name()) })
	if err := logins.Close(); err != nil {
		t.Fatal(err)
	}
	watch := &stopwatch{logins: logins.Name(), began: time.Now()}
	if everything {
		run(t, w.sshCommand(r, "target", "true"), patience)
		watch.login, watch.began = time.Since(watch.began), time.Now()
	}
	return watch
}

// stop gives the time. Clients that are not counted make one login, or had rather made it in less.
func (s *stopwatch) stop(t *testing.T) time.Duration {
	t.Helper()
	took := time.Since(s.began)
	if !everything {
		return 0
	}
	text, err := os.ReadFile(s.logins)
	if err != nil {
		t.Error(err)
	}
	return max(0, took-time.Duration(max(1, bytes.Count(text, []byte("\n"))))*s.login)
}

func TestClasses(t *testing.T) {
	for took, want := range map[time.Duration]string{0: "at once", time.Second: "seconds", time.Minute: "tens of seconds", time.Hour: "minutes"} {
		if got := classOf(took); got != want {
			t.Errorf("%v is of class %q, want %q", took, got, want)
		}
	}
	for _, c := range []struct {
		took, control time.Duration
		slow          bool
	}{{10 * time.Second, 0, false}, {11 * time.Second, 0, true}, {25 * time.Second, 3 * time.Second, false}, {time.Minute, 3 * time.Second, true}} {
		if tooSlow(c.took, c.control) != c.slow {
			t.Errorf("%v beside %v: slow is %v", c.took, c.control, !c.slow)
		}
	}
}
