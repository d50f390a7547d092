package gateway

import (
	"context"
	"fmt"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// route is one person's way to one machine: the name is resolved once, and from then on everything that happens is about these values. It is never
// modified; withUser and Server.enter give changed copies.
type route struct {
	identity    *authz.Identity
	proven      time.Time // when identity was
	named       string    // as typed
	target      *authz.Instance
	port        int
	osUser      string // empty until the login that tells it
	role        authz.Role
	obligations authz.Obligations
	policies    []string // ids of those that said yes
}

// find resolves a name for somebody who has proven who they are.
func (s *Server) find(ctx context.Context, id *authz.Identity, name string) (*authz.Instance, error) {
	if s.isDraining() {
		return nil, errShuttingDown
	}
	if _, err := authz.ParseTarget(name); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, s.cfg.Limits.ResolveTimeout,
		&authz.Refusal{Reason: authz.ReasonTimeout, Subject: name, Action: "looking up the machine"})
	defer cancel()
	target, err := s.cfg.Cloud.Resolve(ctx, name)
	if err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
		return nil, fmt.Errorf("resolve %s for %s: %w", name, id.Person, err)
	}
	return target, nil
}

// judge asks the policy whether the person may do something on the machine, by the rules of now.
func (s *Server) judge(now *rules, r *route, action authz.Action, host string, port int) (authz.Decision, error) {
	decision := now.policy.Decide(authz.Request{Identity: r.identity, Instance: r.target, OSUser: r.osUser, Action: action, DestHost: host, DestPort: port, Now: time.Now()})
	if !decision.Allow {
		reason := decision.Reason
		if reason == "" {
			reason = authz.ReasonNotPermitted
		}
		return decision, &authz.Refusal{Reason: reason, Subject: r.named, Action: string(action), Detail: decision.Message}
	}
	if decision.Obligations.Record {
		return authz.Decision{}, &authz.Refusal{
			Reason: authz.ReasonNotPermitted, Subject: r.named, Action: string(action),
			Detail: "policy demands a recording, and this gateway does not record",
		}
	}
	return decision, nil
}

// enter decides whether the person may be on the machine at all, and as which role. Where the OS user is not known yet the answer is about the most
// favorable one (authz.Policy.Decide), and enter must be asked again when it is; there is no role then where that depends on the user.
func (s *Server) enter(now *rules, r route) (*route, error) {
	decision, err := s.judge(now, &r, authz.ActionConnect, "", 0)
	if err != nil {
		return nil, err
	}
	r.obligations, r.policies = decision.Obligations, decision.Policies
	if r.role = (authz.Role{}); r.obligations.RoleOpen {
		return &r, nil
	}
	if r.role, err = s.roleOf(now, &r, decision.Obligations.Role); err != nil {
		return nil, err
	}
	return &r, nil
}

// roleOf gives the role to assume: the one that policy demands, else the person's.
func (s *Server) roleOf(now *rules, r *route, demanded string) (authz.Role, error) {
	account := r.target.Account
	alias := s.cfg.AccountAliases[account]
	if demanded != "" {
		return now.directory.Assume(r.identity, demanded, alias, account), nil
	}
	role, err := now.directory.RoleFor(r.identity, alias, account)
	if err != nil {
		return authz.Role{}, fmt.Errorf("role of %s in %s: %w", r.identity.Person, account, err)
	}
	return role, nil
}

// withUser gives the route for an OS user.
func (r route) withUser(osUser string) route {
	r.osUser = osUser
	return r
}

// hostNames are the names that a host certificate for the machine shall carry: its id, and what was typed.
func (r *route) hostNames() []string {
	if r.named == r.target.ID {
		return []string{r.named}
	}
	return []string{r.target.ID, r.named}
}
