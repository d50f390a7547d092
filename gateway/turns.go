package gateway

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// How many connections of ours to the sshd of one machine may be unfinished, that is not logged in, at the same time. It sees them all come from one address, and
// from ten on drops some at random (MaxStartups of sshd_config(5)), also those of people who have no lane yet; its agent starts a process for each session. Who
// comes in a crowd waits here a moment instead, and nobody is refused. Passthrough is not counted: when its logins have ended cannot be seen here.
const (
	// loginsPerMachine is all of them: from before the session is opened until sshd has let us in.
	loginsPerMachine = 8
	// furtherLogins of them may be of further lanes: all that one large file asks for, so that they are there together.
	furtherLogins = 7
	// earlyLogins of them may have been begun before the person has said as whom, and wait for that as long as somebody needs to touch a security key.
	earlyLogins = 3
)

// turns lets logins to each machine pass a few at a time.
type turns struct {
	mu    sync.Mutex
	gates map[string]*gate // by authz.Instance.Place, while somebody logs in there
}

type gate struct {
	passing slots // of all who have passed and not left
	further slots // of further lanes that pass, or are next
	early   slots // of early logins that pass
	users   int   // who pass, and who wait; guarded by turns.mu
}

func newTurns() *turns { return &turns{gates: map[string]*gate{}} }

// at adds a user to a machine's gate, and tells how many others it has; forget must follow.
func (t *turns) at(machine string) (g *gate, others int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g = t.gates[machine]; g == nil {
		g = &gate{passing: make(slots, loginsPerMachine), further: make(slots, furtherLogins), early: make(slots, earlyLogins)}
		t.gates[machine] = g
	}
	g.users++
	return g, g.users - 1
}

func (t *turns) forget(machine string, g *gate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g.users--; g.users == 0 {
		delete(t.gates, machine)
	}
}

// queuing is how somebody waits for a turn.
type queuing struct {
	further  bool            // it is for a further lane
	patience time.Duration   // for each loginsPerMachine others: as long as one login may take
	late     error           // why there is no turn when that is over
	tell     func(ahead int) // is told, when it comes to waiting, how many are ahead at most
}

// enter waits for a turn at a machine. leave gives it back; it may be called again.
func (t *turns) enter(ctx context.Context, machine string, q queuing) (leave func(), err error) {
	g, ahead := t.at(machine)
	need := []slots{g.passing}
	if q.further {
		need = []slots{g.further, g.passing}
	}
	ctx, cancel := context.WithTimeoutCause(ctx, q.patience*time.Duration(1+ahead/loginsPerMachine), q.late)
	defer cancel()
	told := false
	for i, s := range need {
		if s.tryTake() {
			continue
		}
		if !told {
			told = true
			q.tell(ahead)
		}
		if err := s.take(ctx); err != nil {
			give(need[:i])
			t.forget(machine, g)
			return nil, err
		}
	}
	return sync.OnceFunc(func() { give(need); t.forget(machine, g) }), nil
}

// early takes a turn for a login that waits for a person, if there is one to be had at once.
func (t *turns) early(machine string) (leave func(), ok bool) {
	g, _ := t.at(machine)
	need := []slots{g.early, g.passing}
	for i, s := range need {
		if !s.tryTake() {
			give(need[:i])
			t.forget(machine, g)
			return nil, false
		}
	}
	return sync.OnceFunc(func() { give(need); t.forget(machine, g) }), true
}

// slots is a semaphore: it holds one for each who has taken one.
type slots chan struct{}

func (s slots) tryTake() bool {
	select {
	case s <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s slots) take(ctx context.Context) error {
	select {
	case s <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func give(taken []slots) {
	for _, s := range taken {
		<-s
	}
}

// turn waits for a turn at the machine, and tells the person where it takes long. Where as whom to log in is not known yet, and no early login may begin, it
// waits for that first.
func (u *upstream) turn(ctx context.Context) (leave func(), err error) {
	machine, named := u.route.target.Place(), u.route.named
	if len(u.osUser) == 0 {
		if leave, ok := u.srv.turns.early(machine); ok {
			return leave, nil
		}
		if _, err := u.awaitUser(ctx); err != nil {
			return nil, err
		}
	}
	return u.srv.turns.enter(ctx, machine, queuing{
		further: u.fresh, patience: u.srv.cfg.Limits.ConnectTimeout,
		late: &authz.Refusal{Reason: authz.ReasonTimeout, Subject: named, Action: "waiting for other logins to " + named},
		tell: func(ahead int) {
			u.visit.herald.say(fmt.Sprintf("waiting for %d other logins to %s", ahead, printable(named, wordLimit)))
		},
	})
}
