package bridge

import (
	"fmt"

	"golang.org/x/crypto/ssh"
)

// landing is the machine's half of a channel, and the place that it has.
type landing struct {
	end
	berth *berth
	left  chan struct{} // closed when the session has moved elsewhere
}

func newLanding(at *berth, half end) *landing { return &landing{half, at, make(chan struct{})} }

// target is the machine's half. On a session it may change until the session is placed.
func (c *channel) target() *landing { return c.landed.Load() }

// prelude is what was asked of a session before it ran anything: a terminal, variables, the agent. It is used by the handler of the client's requests only.
type prelude struct {
	asked    []ssh.Request
	size     int
	terminal bool // a terminal was granted
	over     bool // the program has been chosen, or there was too much
}

// preludeLimit bounds what is kept, in bytes. A session that asks for more stays where it is.
const preludeLimit = 64 << 10

func (p *prelude) note(req *ssh.Request) {
	if p.over {
		return
	}
	p.terminal = p.terminal || req.Type == "pty-req"
	if p.size += len(req.Type) + len(req.Payload); p.size > preludeLimit {
		p.over, p.asked = true, nil
		return
	}
	p.asked = append(p.asked, ssh.Request{Type: req.Type, Payload: req.Payload})
}

// settleLane brings a session to the lane that suits what it is going to run. Until then nobody could know: a terminal, a command and a transfer all begin
// as "session". Where there is but one lane, or the session is well placed, nothing happens on the wire. Otherwise it is opened again on another lane,
// asked for the same things, and closed where it was. No data has passed yet.
func (c *channel) settleLane(run Program) {
	defer c.placed()
	b := c.bridge
	p := &c.prelude
	if b.lanes.limit == 1 || closedAlready(c.placedGate) {
		return
	}
	c.files = run == sftpSubsystem && b.cfg.Limits.FileLanes > 1
	tooMuch := p.over
	p.over = true
	now := c.target()
	n := need{traffic: trafficOfProgram(run, p.terminal), session: true, from: now.berth}
	if tooMuch || b.stays(n) {
		b.decide(now.berth, n.traffic)
		return
	}
	if err := c.move(now, n); err != nil {
		b.cfg.Log.Info("session stays on its lane", "channel", c.info.ID, "err", err)
		b.decide(now.berth, n.traffic)
	}
	p.asked = nil
}

// move opens the session elsewhere.
func (c *channel) move(now *landing, n need) error {
	b := c.bridge
	there, err := b.openUp(n, c.info.Type, nil)
	if err != nil {
		return err
	}
	if err := c.prelude.repeat(there.ch); err != nil {
		c.forsake(there)
		return err
	}
	c.moving.Lock()
	defer c.moving.Unlock()
	if c.stayed { // the machine has closed it meanwhile
		c.forsake(there)
		return errTargetLeft
	}
	c.landed.Store(there)
	close(now.left)
	c.forsake(now)
	b.cfg.Log.Debug("session moved to another lane", "channel", c.info.ID)
	return nil
}

// repeat asks for everything again. Only a terminal is worth waiting for the answer.
func (p *prelude) repeat(on ssh.Channel) error {
	for _, req := range p.asked {
		wait := req.Type == "pty-req"
		ok, err := on.SendRequest(req.Type, wait, req.Payload)
		if err != nil || wait && !ok {
			return fmt.Errorf("asking for %s again: refused (%w)", req.Type, err)
		}
	}
	return nil
}

// forsake closes a half that nobody uses. Its place is free when the machine has closed it too.
func (c *channel) forsake(at *landing) {
	_ = at.ch.Close()
	c.bridge.spawn(func() {
		ssh.DiscardRequests(at.reqs)
		c.bridge.leave(at.berth)
	})
}

// stay reports whether at is where the session has remained, and keeps it there: for the machine has closed it.
func (c *channel) stay(at *landing) bool {
	c.moving.Lock()
	defer c.moving.Unlock()
	c.stayed = c.landed.Load() == at
	return c.stayed
}

// stays reports whether the place that a session has suits its need, or whether nothing better can be had.
func (b *bridge) stays(n need) bool {
	s := &b.lanes
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, suits := n.from.lane.cost(n); suits {
		return true
	}
	if best, suits := s.pick(n); suits || best != n.from.lane {
		return false
	}
	hope := s.opening > 0 || s.mayOpenFor(n) || n.mayDisplace() && s.makeRoom()
	return !hope
}
