package authz

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

// Decide answers one question: may this person do this on that machine, and what goes with it. It is pure, takes microseconds, and is asked anew
// for every channel request and for everything live after a reload. First what key and certificate leave of a session (ChannelGrants), then the
// policies. Nothing matched, anything missing in the request, and any policy that fails: deny. Where several permits matched, the strictest
// obligation wins, and one that a permit does not mention counts as its default; two different @role or @login are an error.
//
// A jump names its target before its OS user. ActionConnect with an empty OSUser asks whether there can be a user name for which the answer is yes:
// conditions on context.osUser count as met in permits and as not met in forbids. Inner authentication and mode are then the strictest of all that
// may hold; role, session limit and recording are those that hold for every user. Ask again when the name is known.
//
// ActionForwardLocal may have no OS user for good: a tunnel to a port of the machine logs in as nobody, and policies see the empty name.
func (p *Policy) Decide(req Request) Decision {
	if req.Identity == nil || req.Instance == nil || actionGroups[req.Action] == "" {
		return deny(ReasonNotPermitted, "")
	}
	if req.OSUser == "" && req.Action != ActionConnect && req.Action != ActionForwardLocal {
		return deny(ReasonBadOSUser, "")
	}
	if d, denied := grantsDenial(req); denied {
		return d
	}
	var m matched
	if req.OSUser == "" && req.Action == ActionConnect {
		m = p.matchAnyUser(req)
	} else {
		m = p.match(req)
	}
	switch {
	case len(m.failed) > 0:
		return deny(ReasonPolicyError, "", m.failed...)
	case len(m.forbids) > 0:
		return deny(ReasonNotPermitted, p.messages(m.forbids), m.forbids...)
	case len(m.permits)+len(m.possible) == 0:
		return deny(ReasonNotPermitted, "")
	}
	return p.allow(m)
}

// matched is which policies hold, by @id, sorted.
type matched struct {
	permits  []string
	possible []string // permits that hold for some OS user, where it is not known
	forbids  []string
	failed   []string
}

func deny(reason Reason, message string, policies ...string) Decision {
	return Decision{Reason: reason, Message: message, Policies: policies}
}

// match evaluates the compiled policies.
func (p *Policy) match(req Request) matched {
	var m matched
	decision, diag := cedar.Authorize(p.set, newFacts(req), cedarRequest(req, cedar.String(req.OSUser)))
	for _, e := range diag.Errors {
		m.failed = append(m.failed, string(e.PolicyID))
	}
	ids := make([]string, 0, len(diag.Reasons))
	for _, r := range diag.Reasons {
		ids = append(ids, string(r.PolicyID))
	}
	slices.Sort(ids)
	slices.Sort(m.failed)
	if decision == cedar.Allow {
		m.permits = ids
	} else {
		m.forbids = ids
	}
	return m
}

// matchAnyUser evaluates with the OS user left open. Of a policy that holds whoever the user is, partial evaluation leaves no condition; of one that
// depends on the user, or fails, it leaves those that do.
func (p *Policy) matchAnyUser(req Request) matched {
	var m matched
	question := cedarRequest(req, eval.Variable("osUser"))
	env := eval.Env{
		Principal: question.Principal, Action: question.Action, Resource: question.Resource, Context: question.Context,
		Entities: newFacts(req),
	}
	for _, id := range p.IDs() {
		r := p.rules[cedar.PolicyID(id)]
		rest, holds := eval.PartialPolicy(env, (*ast.Policy)(r.policy.AST()))
		switch {
		case !holds:
		case slices.ContainsFunc(rest.Conditions, failsAlways):
			m.failed = append(m.failed, id)
		case len(rest.Conditions) > 0 && r.permit:
			m.possible = append(m.possible, id)
		case len(rest.Conditions) > 0: // a forbid of some users: asked again when the user is known
		case r.permit:
			m.permits = append(m.permits, id)
		default:
			m.forbids = append(m.forbids, id)
		}
	}
	return m
}

func failsAlways(c ast.ConditionType) bool {
	_, failed := eval.ToPartialError(c.Body)
	return failed
}

// allow combines the obligations of the permits that matched.
func (p *Policy) allow(m matched) Decision {
	all := Obligations{InnerAuth: InnerAuthConnection, Mode: ModePassthrough}
	roleFrom, loginFrom := "", ""
	for _, id := range m.permits {
		one := p.rules[cedar.PolicyID(id)].obligations
		if one.Role != "" && all.Role != "" && one.Role != all.Role {
			return deny(ReasonPolicyError, fmt.Sprintf("policies %q and %q name different roles", roleFrom, id), roleFrom, id)
		}
		if one.Role != "" && all.Role == "" {
			all.Role, roleFrom = one.Role, id
		}
		if one.Login != LoginAny && all.Login != LoginAny && one.Login != all.Login {
			return deny(ReasonPolicyError, fmt.Sprintf("policies %q and %q name different logins", loginFrom, id), loginFrom, id)
		}
		if one.Login != LoginAny && all.Login == LoginAny {
			all.Login, loginFrom = one.Login, id
		}
		if one.MaxSession > 0 && (all.MaxSession == 0 || one.MaxSession < all.MaxSession) {
			all.MaxSession = one.MaxSession
		}
		all.Record = all.Record || one.Record
		all.NoSSHD = all.NoSSHD || one.NoSSHD
		all.restrict(one)
	}
	for _, id := range m.possible {
		one := p.rules[cedar.PolicyID(id)].obligations
		all.RoleOpen = all.RoleOpen || one.Role != "" && one.Role != all.Role
		all.restrict(one)
	}
	policies := slices.Concat(m.permits, m.possible)
	slices.Sort(policies)
	return Decision{Allow: true, Policies: policies, Obligations: all}
}

// restrict keeps the stricter inner authentication and mode.
func (o *Obligations) restrict(one Obligations) {
	if one.InnerAuth == InnerAuthKey {
		o.InnerAuth = InnerAuthKey
	}
	if one.Mode == ModeInspected { // where recording is required, always: LoadPolicy refuses it beside passthrough
		o.Mode = ModeInspected
	}
}

// messages joins what the forbidding policies want the person to know.
func (p *Policy) messages(ids []string) string {
	var texts []string
	for _, id := range ids {
		if m := p.rules[cedar.PolicyID(id)].message; m != "" && !slices.Contains(texts, m) {
			texts = append(texts, m)
		}
	}
	return strings.Join(texts, "; ")
}

// cedarRequest puts the question in Cedar's words. osUser is a parameter because it may be left open.
func cedarRequest(req Request, osUser types.Value) cedar.Request {
	context := cedar.RecordMap{
		"osUser":   osUser,
		"sourceIp": sourceIP(req.Identity.Source),
		"now":      cedar.NewDatetime(req.Now),
		"mfa":      cedar.Boolean(req.Identity.touched()),
	}
	if req.Purpose != "" {
		context["reason"] = cedar.String(req.Purpose)
	}
	if req.DestHost != "" {
		context["destHost"] = cedar.String(req.DestHost)
	}
	isForward := req.Action == ActionForwardLocal || req.Action == ActionForwardRemote
	if isForward && !strings.HasPrefix(req.DestHost, "/") { // a socket's path has no port
		context["destPort"] = cedar.Long(req.DestPort)
	}
	return cedar.Request{
		Principal: cedar.NewEntityUID(typeUser, cedar.String(req.Identity.Person)),
		Action:    cedar.NewEntityUID(typeAction, cedar.String(req.Action)),
		Resource:  cedar.NewEntityUID(typeInstance, cedar.String(req.Instance.ID)),
		Context:   cedar.NewRecord(context),
	}
}

// sourceIP is the client's address. Without one (no network client: a check from the command line) it is the unspecified address, which is in no
// range that anybody trusts.
func sourceIP(source netip.AddrPort) cedar.IPAddr {
	addr := source.Addr().Unmap().WithZone("")
	if !addr.IsValid() {
		addr = netip.IPv4Unspecified()
	}
	return cedar.IPAddr(netip.PrefixFrom(addr, addr.BitLen()))
}
