package awsemu

import (
	"maps"
	"strings"
	"time"
)

// principal is who signed a call: an IAM user, or the session of an assumed role.
type principal struct {
	arn     string
	account string
	userID  string // aws:userid; for role sessions <role id>:<session name>
	name    string // user name, or role session name

	// Of role sessions only.
	roleARN        string
	sourceIdentity string
	tags           map[string]string
	transitive     []string
	session        *Policy // session policy; what it does not allow is denied

	credential
}

// credential is a key pair, for role sessions with token and end.
type credential struct {
	accessKey string
	secret    string
	token     string
	expires   time.Time
}

// isSession reports whether the principal is a role session; sessions that assume roles are chained and last an hour at most.
func (p *principal) isSession() bool { return p.roleARN != "" }

// context gives the condition keys that are about the principal.
func (p *principal) context() map[string][]string {
	c := map[string][]string{
		"aws:principalarn":     {p.principalARN()},
		"aws:principalaccount": {p.account},
		"aws:userid":           {p.userID},
	}
	if p.sourceIdentity != "" {
		c["aws:sourceidentity"] = []string{p.sourceIdentity}
	}
	if !p.isSession() {
		c["aws:username"] = []string{p.name}
	}
	for k, v := range p.tags {
		c["aws:principaltag/"+strings.ToLower(k)] = []string{v}
	}
	return c
}

// principalARN is aws:PrincipalArn: for role sessions the role.
func (p *principal) principalARN() string {
	if p.roleARN != "" {
		return p.roleARN
	}
	return p.arn
}

// resource is what an action is done to, with the condition keys that come with it.
type resource struct {
	arn     string
	context map[string][]string
}

// tagged adds the tags of a resource under the names that services use for them.
func tagged(arn string, tags map[string]string, prefixes ...string) resource {
	c := map[string][]string{}
	for _, prefix := range prefixes {
		for k, v := range tags {
			c[strings.ToLower(prefix+k)] = []string{v}
		}
	}
	return resource{arn: arn, context: c}
}

// with adds one condition key.
func (r resource) with(key string, values ...string) resource {
	c := maps.Clone(r.context)
	if c == nil {
		c = map[string][]string{}
	}
	c[strings.ToLower(key)] = values
	return resource{arn: r.arn, context: c}
}

// authorize asks the identity policy and, for role sessions, the session policy of who. Both have to allow.
func (s *Server) authorize(who *principal, action string, on resource) error {
	q := question{action: action, resource: on.arn, context: who.context()}
	maps.Copy(q.context, on.context)
	if message, ok := s.faults.deniedAction(action); ok {
		return accessDenied(who, action, on.arn, message)
	}
	if v := s.identityPolicy(who).evaluate(q); v != allowed {
		return accessDenied(who, action, on.arn, because(v, "identity-based", action))
	}
	if who.session != nil {
		if v := who.session.evaluate(q); v != allowed {
			return accessDenied(who, action, on.arn, because(v, "session", action))
		}
	}
	return nil
}

// because ends the sentence of an access denial in the words of IAM.
func because(v verdict, kind, action string) string {
	if v == denied {
		return "with an explicit deny in " + article(kind) + " " + kind + " policy"
	}
	return "because no " + kind + " policy allows the " + action + " action"
}

func article(word string) string {
	if strings.IndexByte("aeiou", word[0]) >= 0 {
		return "an"
	}
	return "a"
}

// identityPolicy is looked up at each call, so that a changed role changes sessions that exist.
func (s *Server) identityPolicy(who *principal) Policy {
	s.mu.Lock()
	defer s.mu.Unlock()
	if who.roleARN != "" {
		if r := s.roles[who.roleARN]; r != nil {
			return r.Policy
		}
		return Policy{}
	}
	if u := s.users[who.arn]; u != nil {
		return u.Policy
	}
	return Policy{}
}
