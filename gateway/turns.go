package gateway

import (
	"context"
	"fmt"
	"sync"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// loginsPerMachine is how many logins to one machine go on at the same time, those of further lanes included. Its sshd sees them all come from one address, and
// drops some at random from ten unfinished ones on (MaxStartups of sshd_config(5)); its agent starts a process for each session. Who comes in a crowd waits
// here a moment instead, and nobody is refused.
const loginsPerMachine = 8

// turns lets logins to each machine pass a few at a time.
type turns struct {
	mu    sync.Mutex
	gates map[string]*gate // by authz.Instance.Place, while somebody logs in there
}

type gate struct {
	passing chan struct{} // holds one for each who has passed and not left
	users   int           // who pass, and who wait; guarded by turns.mu
}

func newTurns() *turns { return &turns{gates: map[string]*gate{}} }

// enter waits for a turn at a machine. wait is told, if it comes to that, how many are ahead at least. leave gives the turn back; it may be called again.
func (t *turns) enter(ctx context.Context, machine string, wait func(ahead int)) (leave func(), err error) {
	t.mu.Lock()
	g := t.gates[machine]
	if g == nil {
		g = &gate{passing: make(chan struct{}, loginsPerMachine)}
		t.gates[machine] = g
	}
	ahead := g.users
	g.users++
	t.mu.Unlock()
	select {
	case g.passing <- struct{}{}:
		return sync.OnceFunc(func() { <-g.passing; t.forget(machine, g) }), nil
	default:
		wait(ahead)
	}
	select {
	case g.passing <- struct{}{}:
		return sync.OnceFunc(func() { <-g.passing; t.forget(machine, g) }), nil
	case <-ctx.Done():
		t.forget(machine, g)
		return nil, context.Cause(ctx)
	}
}

func (t *turns) forget(machine string, g *gate) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if g.users--; g.users == 0 {
		delete(t.gates, machine)
	}
}

// turn waits for a turn at the machine, for a bounded time, and tells the person where it takes long.
func (u *upstream) turn(ctx context.Context) (leave func(), err error) {
	named := u.route.named
	late := &authz.Refusal{Reason: authz.ReasonTimeout, Subject: named, Action: "waiting for other logins to " + named}
	ctx, cancel := context.WithTimeoutCause(ctx, u.srv.cfg.Limits.ConnectTimeout, late)
	defer cancel()
	return u.srv.turns.enter(ctx, u.route.target.Place(), func(ahead int) {
		u.visit.herald.say(fmt.Sprintf("waiting for %d other logins to %s", ahead, printable(named, wordLimit)))
	})
}
