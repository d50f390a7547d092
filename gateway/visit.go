package gateway

import (
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// How a stay is carried, for the audit.
const (
	modeInspected   = "inspected"
	modePassthrough = "passthrough"
	modePort        = "port"
)

// visit is one person's stay on one machine: from the moment the machine is named to the end of the last byte. It is the gatekeeper and the observer of
// the bridge, and what Reload judges again.
type visit struct {
	conn   *conn
	ref    string
	log    *slog.Logger
	mode   string
	began  time.Time
	ctx    context.Context
	cancel context.CancelCauseFunc
	tally  tally  // what it carries
	herald herald // what the person is told while they wait
	agent  *agentOffer
	epoch  int         // of warmLinks, when it began
	shell  atomic.Bool // Session Manager shells stand in for an sshd

	mu      sync.Mutex
	way     authz.Login // by which the first lane has logged in
	route   route       // the OS user and what follows from it are filled in once, at the inner login
	allowed map[granted]struct{}
	until   time.Time   // the end that the shortest @max_session sets; zero: none
	expiry  *time.Timer // that ends it then
}

// granted is one thing that was allowed during a stay.
type granted struct {
	action authz.Action
	host   string
	port   int
}

// asksKept bounds what Reload judges again on one stay. A browser behind -D may visit thousands of addresses; those beyond were judged once, when asked.
const asksKept = 1024

// newVisit registers a stay. end must follow.
func (c *conn) newVisit(r route, mode, ref string) *visit {
	v := &visit{conn: c, ref: ref, mode: mode, began: time.Now(), agent: newAgentOffer(), epoch: c.srv.warm.now(), route: r, allowed: map[granted]struct{}{}}
	v.log = c.log.With("ref", ref, "target", r.named, "instance", r.target.Place())
	v.ctx, v.cancel = context.WithCancelCause(withHerald(c.ctx, &v.herald))
	v.shorten(r.obligations.MaxSession)
	c.mu.Lock()
	c.visits[v] = struct{}{}
	c.mu.Unlock()
	v.recheck(c.srv.rules.Load()) // a reload may have come since the policy was asked
	return v
}

// end unregisters the stay and tells the audit why it is over; err nil means in good order.
func (v *visit) end(err error) {
	v.conn.mu.Lock()
	delete(v.conn.visits, v)
	v.conn.mu.Unlock()
	v.mu.Lock()
	if v.expiry != nil {
		v.expiry.Stop()
	}
	v.mu.Unlock()
	v.cancel(nil)
	e := v.event(EventTargetLeft)
	e.Duration = time.Since(v.began).Milliseconds()
	withCause(&e, err)
	v.conn.srv.record(e)
	v.log.Info("left the machine", "cause", err)
}

// settle fixes the OS user, as the inner login tells it, and asks the policy with it.
func (v *visit) settle(p *proof, osUser string) error {
	r := v.current().withUser(osUser)
	r.identity, r.proven = p.identity, p.at
	entered, err := v.conn.srv.enter(v.conn.srv.rules.Load(), r)
	if err != nil {
		return err
	}
	if entered.obligations.Mode == authz.ModePassthrough {
		return &authz.Refusal{
			Reason: authz.ReasonNotPermitted, Subject: r.named,
			Detail: "for this user the policy allows passthrough only: name the user in the login to the gateway, as in ssh -J " + osUser + "@GATEWAY",
		}
	}
	v.mu.Lock()
	v.route = *entered
	v.mu.Unlock()
	v.shorten(entered.obligations.MaxSession)
	v.conn.srv.record(v.event(EventTargetAllowed))
	return nil
}

// current gives the route as it stands.
func (v *visit) current() route {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.route
}

// Permit asks the policy about something on the machine. It is the gatekeeper of the bridge.
func (v *visit) Permit(action authz.Action, destHost string, destPort int) error {
	r := v.current()
	err := v.needsSSHD(action)
	var decision authz.Decision
	if err == nil {
		decision, err = v.conn.srv.judge(v.conn.srv.rules.Load(), &r, action, destHost, destPort)
	}
	if err == nil && decision.Obligations.Role != "" && decision.Obligations.Role != r.role.ARN {
		// The session on the machine was opened as another role; what this one is meant to fence in can no longer be fenced.
		err = &authz.Refusal{Reason: authz.ReasonNotPermitted, Subject: r.named, Action: string(action), Detail: "policy demands another IAM role for it"}
	}
	if err != nil {
		e := v.event(EventActionRefused)
		e.Request, e.Destination = string(action), destination(destHost, destPort)
		withCause(&e, err)
		v.conn.srv.record(e)
		return err
	}
	v.shorten(decision.Obligations.MaxSession)
	v.remember(granted{action, destHost, destPort})
	return nil
}

// remember notes what was allowed, so that recheck judges it again.
func (v *visit) remember(g granted) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if len(v.allowed) < asksKept {
		v.allowed[g] = struct{}{}
	}
}

// shorten ends the stay after limit, counted from its beginning, unless it ends sooner anyway.
func (v *visit) shorten(limit time.Duration) {
	if limit <= 0 {
		return
	}
	until := v.began.Add(limit)
	v.mu.Lock()
	defer v.mu.Unlock()
	if !v.until.IsZero() && !until.Before(v.until) {
		return
	}
	over := &authz.Refusal{Reason: authz.ReasonNotPermitted, Subject: v.route.named, Detail: "the time that policy allows is over: " + limit.String()}
	if v.expiry != nil {
		v.expiry.Stop()
	}
	v.until, v.expiry = until, time.AfterFunc(time.Until(until), func() { v.cancel(over) })
}

// over is when the stay ends at the latest; zero: no limit.
func (v *visit) over() time.Time {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.until
}

// recheck judges the stay again by new rules and cuts it where something that was allowed no longer is.
func (v *visit) recheck(now *rules) {
	v.mu.Lock()
	r := v.route
	asked := make([]granted, 0, len(v.allowed))
	for a := range v.allowed {
		asked = append(asked, a)
	}
	v.mu.Unlock()
	err := now.directory.StillValid(r.identity, v.conn.srv.judgedAt(r.proven))
	if err == nil {
		err = v.reenter(now, r)
	}
	for _, a := range asked {
		if err != nil {
			break
		}
		var decision authz.Decision
		decision, err = v.conn.srv.judge(now, &r, a.action, a.host, a.port)
		v.shorten(decision.Obligations.MaxSession)
	}
	if err != nil {
		v.cancel(err)
	}
}

// reenter asks the new rules whether the stay may go on in the way it has begun: as the same role, and inspected or not as before.
func (v *visit) reenter(now *rules, r route) error {
	entered, err := v.conn.srv.enter(now, r)
	if err != nil {
		return err
	}
	v.shorten(entered.obligations.MaxSession)
	if v.mode == modePort { // its role is that of the forward, and its bytes are never looked into
		return nil
	}
	wasThrough, through := v.mode == modePassthrough, entered.obligations.Mode == authz.ModePassthrough
	switch {
	case entered.role.ARN != r.role.ARN:
		return &authz.Refusal{Reason: authz.ReasonNotPermitted, Subject: r.named, Detail: "your role has changed"}
	case through && !wasThrough:
		return &authz.Refusal{Reason: authz.ReasonNotPermitted, Subject: r.named, Detail: "policy now allows passthrough only"}
	case wasThrough && !through:
		return &authz.Refusal{Reason: authz.ReasonNotPermitted, Subject: r.named, Detail: "policy no longer allows passthrough"}
	}
	return nil
}

// text words a failure for the person and logs its cause under the same reference. It is what the bridge writes into channel refusals.
func (v *visit) text(err error) string {
	v.log.Warn("refused", "reason", reasonOf(err), "error", err)
	return sentence(err, v.ref)
}
