package authz

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/types"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
	"github.com/cedar-policy/cedar-go/x/exp/batch"
	"github.com/cedar-policy/cedar-go/x/exp/eval"
)

// Decide answers one question: may this person do this on that machine, and what goes with it. It is pure, takes microseconds, and is asked anew
// for every channel request and for everything live after a reload. First what key and certificate leave of a session (ChannelGrants), then the
// policies. Nothing matched, anything missing in the request, and any policy that fails: deny. Where several permits matched, the strictest
// obligation wins, and one that a permit does not mention counts as its default; two different @role are an error.
//
// A jump names its target before its OS user. ActionConnect with an empty OSUser asks whether there can be a user name for which the answer is yes:
// conditions on context.osUser count as met in permits and as not met in forbids. Ask again when the name is known.
func (p *Policy) Decide(req Request) Decision {
	if req.Identity == nil || req.Instance == nil || actionGroups[req.Action] == "" {
		return deny(ReasonNotPermitted, "")
	}
	if req.OSUser == "" && req.Action != ActionConnect {
		return deny(ReasonBadOSUser, "")
	}
	if d, denied := grantsDenial(req); denied {
		return d
	}
	var permits, forbids []string
	var failed []string
	if req.OSUser == "" {
		permits, forbids, failed = p.matchAnyUser(req)
	} else {
		permits, forbids, failed = p.match(req)
	}
	switch {
	case len(failed) > 0:
		return deny(ReasonPolicyError, "", failed...)
	case len(forbids) > 0:
		return deny(ReasonNotPermitted, p.messages(forbids), forbids...)
	case len(permits) == 0:
		return deny(ReasonNotPermitted, "")
	}
	return p.allow(permits)
}

func deny(reason Reason, message string, policies ...string) Decision {
	return Decision{Reason: reason, Message: message, Policies: policies}
}

// match evaluates the compiled policies.
func (p *Policy) match(req Request) (permits, forbids, failed []string) {
	decision, diag := cedar.Authorize(p.set, newFacts(req), cedarRequest(req, cedar.String(req.OSUser)))
	for _, e := range diag.Errors {
		failed = append(failed, string(e.PolicyID))
	}
	ids := make([]string, 0, len(diag.Reasons))
	for _, r := range diag.Reasons {
		ids = append(ids, string(r.PolicyID))
	}
	slices.Sort(ids)
	slices.Sort(failed)
	if decision == cedar.Allow {
		return ids, nil, failed
	}
	return nil, ids, failed
}

// matchAnyUser evaluates with the OS user left open. Partial evaluation leaves no condition of a policy that holds; one that is left is an error.
func (p *Policy) matchAnyUser(req Request) (permits, forbids, failed []string) {
	question := cedarRequest(req, batch.Ignore())
	env := eval.Env{
		Principal: question.Principal, Action: question.Action, Resource: question.Resource, Context: question.Context,
		Entities: newFacts(req),
	}
	for _, id := range p.IDs() {
		r := p.rules[cedar.PolicyID(id)]
		rest, holds := eval.PartialPolicy(env, (*ast.Policy)(r.policy.AST()))
		switch {
		case !holds:
		case len(rest.Conditions) > 0:
			failed = append(failed, id)
		case r.permit:
			permits = append(permits, id)
		default:
			forbids = append(forbids, id)
		}
	}
	return permits, forbids, failed
}

// allow combines the obligations of the permits that matched.
func (p *Policy) allow(permits []string) Decision {
	d := Decision{Allow: true, Policies: permits, Obligations: Obligations{InnerAuth: InnerAuthConnection, Mode: ModePassthrough}}
	all := &d.Obligations
	roleFrom := ""
	for _, id := range permits {
		one := p.rules[cedar.PolicyID(id)].obligations
		if one.Role != "" && all.Role != "" && one.Role != all.Role {
			return deny(ReasonPolicyError, fmt.Sprintf("policies %q and %q name different roles", roleFrom, id), roleFrom, id)
		}
		if one.Role != "" && all.Role == "" {
			all.Role, roleFrom = one.Role, id
		}
		if one.MaxSession > 0 && (all.MaxSession == 0 || one.MaxSession < all.MaxSession) {
			all.MaxSession = one.MaxSession
		}
		all.Record = all.Record || one.Record
		if one.InnerAuth == InnerAuthKey {
			all.InnerAuth = InnerAuthKey
		}
		if one.Mode == ModeInspected || one.Record { // bytes alone cannot be recorded
			all.Mode = ModeInspected
		}
	}
	return d
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
