package gateway

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// quietly is a queuing that tells nobody.
func quietly(further bool) queuing {
	return queuing{further: further, patience: time.Minute, late: errors.New("late"), tell: func(int) {}}
}

func TestLoginsToAMachineTakeTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		var logins sync.WaitGroup
		var now, most, told atomic.Int32
		q := quietly(false)
		q.tell = func(int) { told.Add(1) }
		for range 3 * loginsPerMachine {
			logins.Go(func() {
				leave, err := turns.enter(t.Context(), "a/r/i", q)
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
		leave, err := turns.enter(t.Context(), "a/r/j", quietly(false)) // another machine's gate is open
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

// takeTurns takes n turns, and gives them back at the end of the test.
func takeTurns(t *testing.T, turns *turns, n int, further bool) {
	t.Helper()
	for range n {
		leave, err := turns.enter(t.Context(), "a/r/i", quietly(further))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(leave)
	}
}

func TestWhoGivesUpWaitingLeavesNoTurnTaken(t *testing.T) {
	turns := newTurns()
	t.Run("full", func(t *testing.T) {
		takeTurns(t, turns, loginsPerMachine, false)
		ctx, cancel := context.WithCancel(t.Context())
		q := quietly(true) // it has to wait for the second of its slots
		q.tell = func(ahead int) {
			if ahead != loginsPerMachine {
				t.Errorf("told of %d", ahead)
			}
			cancel()
		}
		if _, err := turns.enter(ctx, "a/r/i", q); err == nil {
			t.Error("a turn beyond the limit")
		}
	})
	if len(turns.gates) != 0 {
		t.Error("the gate is left")
	}
}

// TestPatienceGrowsWithTheQueue: each eight ahead may take as long as one login may.
func TestPatienceGrowsWithTheQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		takeTurns(t, turns, loginsPerMachine, false)
		began := time.Now()
		q := quietly(false)
		if _, err := turns.enter(t.Context(), "a/r/i", q); !errors.Is(err, q.late) || time.Since(began) != 2*q.patience {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// TestFurtherLanesLeaveATurn: however many lanes one file asks for, somebody who has none yet gets in beside them.
func TestFurtherLanesLeaveATurn(t *testing.T) {
	turns := newTurns()
	takeTurns(t, turns, furtherLogins, true)
	ctx, cancel := context.WithCancel(t.Context())
	q := quietly(true)
	q.tell = func(int) { cancel() }
	if _, err := turns.enter(ctx, "a/r/i", q); err == nil {
		t.Error("an eighth further lane logs in at the same time")
	}
	takeTurns(t, turns, 1, false)
}

func TestEarlyLoginsLeaveTurns(t *testing.T) {
	turns := newTurns()
	for range earlyLogins {
		leave, ok := turns.early("a/r/i")
		if !ok {
			t.Fatal("no early login")
		}
		defer leave()
	}
	if _, ok := turns.early("a/r/i"); ok {
		t.Error("one early login too many")
	}
	takeTurns(t, turns, loginsPerMachine-earlyLogins, false)
	other := newTurns()
	takeTurns(t, other, loginsPerMachine, false)
	if _, ok := other.early("a/r/i"); ok {
		t.Error("an early login beyond all turns")
	}
}

// TestACrowdLeavesSSHDRoom: a machine's sshd begins to drop connections when ten have not logged in. People who come all at once, further lanes, and people who
// are asked for a key in a jump and take their time, together stay below that, and none of them is refused.
func TestACrowdLeavesSSHDRoom(t *testing.T) {
	const crowd, idlers = 20, 2 * loginsPerMachine
	w := newWorld(t, worldOptions{limits: Limits{MachinesPerConnection: idlers, LanesPerPerson: 100, LanesPerMachine: 100, BannerTimeout: testkit.Patience}})
	hold := make(chan struct{})
	w.machine.mu.Lock()
	w.machine.hold = hold
	w.machine.mu.Unlock()
	release := sync.OnceFunc(func() { close(hold) })
	t.Cleanup(release)
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	for range idlers {
		raw, err := outer.Dial("tcp", worldInstance+":22")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = raw.Close() }()
	}
	var all sync.WaitGroup
	for range crowd {
		all.Go(func() {
			client, err := w.connect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
			if err != nil {
				t.Error(err)
				return
			}
			logsIn(t, client)
		})
	}
	place := worldAccount + "/eu-west-1/" + worldInstance
	testkit.Eventually(t, "all to wait", func() bool {
		w.srv.turns.mu.Lock()
		defer w.srv.turns.mu.Unlock()
		g := w.srv.turns.gates[place]
		return g != nil && g.users == crowd+earlyLogins
	})
	testkit.Eventually(t, "as many logins as may be", func() bool {
		w.machine.mu.Lock()
		defer w.machine.mu.Unlock()
		return w.machine.unfinished == loginsPerMachine
	})
	release()
	all.Wait()
	w.machine.mu.Lock()
	defer w.machine.mu.Unlock()
	if w.machine.crowd != loginsPerMachine || w.machine.unfinished != earlyLogins {
		t.Errorf("up to %d logins were unfinished at once, and in the end %d", w.machine.crowd, w.machine.unfinished)
	}
}

// logsIn holds a terminal and a command, which is on a lane of its own, and runs a program.
func logsIn(t *testing.T, client *ssh.Client) {
	for _, terminal := range []bool{true, false} {
		s, err := client.NewSession()
		if err != nil {
			t.Error(err)
			return
		}
		defer func() { _ = s.Close() }()
		if terminal {
			err = s.RequestPty("vt100", 24, 80, nil)
		}
		if _, pipeErr := s.StdinPipe(); err == nil {
			err = pipeErr
		}
		if err == nil {
			err = s.Start("cat")
		}
		if err != nil {
			t.Error(err)
		}
	}
}
