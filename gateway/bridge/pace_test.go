package bridge

import (
	"context"
	"errors"
	"io"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// line is a way to a client: so many bytes a second, a time there and back, and room for everything.
type line struct {
	rate float64

	mu   sync.Mutex
	trip time.Duration
	free time.Time // when all that was sent will have left
}

// send puts n bytes on the line.
func (l *line) send(n int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now := time.Now(); l.free.Before(now) {
		l.free = now
	}
	l.free = l.free.Add(time.Duration(float64(n) / l.rate * float64(time.Second)))
}

// waits is how long a byte sent now would stand behind others, and how long an answer to it would take after that.
func (l *line) waits() (queue, trip time.Duration) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return max(time.Until(l.free), 0), l.trip
}

func (l *line) ask() error {
	queue, trip := l.waits()
	time.Sleep(queue + trip)
	return nil
}

// sendFor sends bulk for a while, and tells the share of the line's rate that it got and how long nine of ten echoes would have stood behind it at most, after a while
// of getting used to the line. The tenth may come while the line is measured anew, which may go wrong once.
func (l *line) sendFor(p *pace, d time.Duration) (share float64, mostly time.Duration) {
	began, sent := time.Now(), 0
	var queues []time.Duration
	for time.Since(began) < d {
		p.admit(context.Background())
		l.send(bulkCopy)
		p.add(bulkCopy)
		sent += bulkCopy
		if queue, _ := l.waits(); time.Since(began) > d/5 {
			queues = append(queues, queue)
		}
	}
	slices.Sort(queues)
	return float64(sent) / l.rate / d.Seconds(), queues[len(queues)*9/10]
}

// A line is kept busy, and what is under way on it short, whatever it is like.
func TestPace(t *testing.T) {
	for name, test := range map[string]struct {
		line   *line
		mostly time.Duration
	}{
		"loopback":          {&line{rate: 100e6, trip: time.Millisecond}, 25 * time.Millisecond},
		"office":            {&line{rate: 10e6, trip: 20 * time.Millisecond}, 150 * time.Millisecond},
		"another continent": {&line{rate: 5e6, trip: 150 * time.Millisecond}, 420 * time.Millisecond},  // the most that may be under way
		"telephone":         {&line{rate: 200e3, trip: 50 * time.Millisecond}, 700 * time.Millisecond}, // three times the way and one packet, which may be in front of the measure
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var asking sync.WaitGroup
				defer asking.Wait()
				share, mostly := test.line.sendFor(newPace(test.line.ask, asking.Go), time.Minute)
				if t.Logf("bulk got %.2f of the line, an echo stood behind it for %v", share, mostly); share < 0.7 || mostly > test.mostly {
					t.Errorf("want 0.7 and %v", test.mostly)
				}
			})
		})
	}
}

// A way that becomes longer, because the client has gone elsewhere, is not taken for a queue for long.
func TestPaceForgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asking sync.WaitGroup
		defer asking.Wait()
		l := &line{rate: 10e6, trip: 5 * time.Millisecond}
		p := newPace(l.ask, asking.Go)
		l.sendFor(p, 5*time.Second)
		l.mu.Lock()
		l.trip = 100 * time.Millisecond
		l.mu.Unlock()
		l.sendFor(p, 2*paceMemory)
		if share, _ := l.sendFor(p, time.Minute); share < 0.7 {
			t.Errorf("bulk got %.2f of the line", share)
		}
	})
}

// A client that answers no questions gets its bulk all the same, after a while; one that answers again is waited for again.
func TestPaceOfASilentClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var asking sync.WaitGroup
		defer asking.Wait()
		answers := make(chan struct{})
		p := newPace(func() error {
			if _, open := <-answers; !open {
				return io.EOF
			}
			return nil
		}, asking.Go)
		// send tells how long it takes until so much has been admitted.
		send := func(n int) time.Duration {
			began := time.Now()
			for range n / bulkCopy {
				p.admit(t.Context())
				p.add(bulkCopy)
			}
			return time.Since(began)
		}
		if took := send(10 << 20); took != pacePatience {
			t.Errorf("a silent client was waited for %v", took)
		}
		answers <- struct{}{} // to the question about the first bytes, which is long ago
		synctest.Wait()
		left, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if p.admit(left); time.Since(began) != time.Second {
			t.Error("a client that has answered is not waited for")
		}
		close(answers) // the connection has ended
		asking.Wait()
		if took := send(10 << 20); took != 0 {
			t.Errorf("nobody was waited for %v", took)
		}
	})
}

// Bulk waits for the client's answers while a terminal is open, and only then.
func TestBulkGivesWayToATerminal(t *testing.T) {
	const size = 1 << 20
	open := runProgram(func(ch ssh.Channel, command string) {
		if command == "exec cat" {
			_, _ = ch.Write(make([]byte, size))
		} else {
			_, _ = io.Copy(ch, ch)
		}
	})
	r := newRig(t, rigOptions{
		up: func(context.Context) (*Link, error) {
			return (&scriptedTarget{onOpen: open, ready: make(chan struct{})}).connect(t)
		},
		config: func(c *Config) { c.Limits.Lanes = 2 },
	})
	download := func() <-chan error {
		s, done := r.session(t), make(chan error, 1)
		out, err := s.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Start("cat"); err != nil {
			t.Fatal(err)
		}
		go func() {
			_, err := io.ReadFull(out, make([]byte, size))
			done <- err
		}()
		return done
	}
	if err := testkit.Receive(t, download(), "a transfer"); err != nil {
		t.Fatal(err)
	}
	select {
	case req := <-r.global:
		t.Fatalf("%s beside nobody", req.Type)
	default:
	}
	terminal := r.session(t)
	if err := errors.Join(terminal.RequestPty("vt100", 24, 80, nil), terminal.Shell()); err != nil {
		t.Fatal(err)
	}
	done := download()
	question := testkit.Receive(t, r.global, "a question beside a terminal")
	select {
	case <-done:
		t.Error("a transfer has ended while its first question is open")
	default:
	}
	go func() {
		_ = question.Reply(false, nil)
		ssh.DiscardRequests(r.global)
	}()
	if err := testkit.Receive(t, done, "the transfer beside a terminal"); err != nil {
		t.Error(err)
	}
}
