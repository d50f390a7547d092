package awsemu

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Policy is an IAM policy document: identity policy, trust policy or session policy. It is the JSON people write, so that the policies of a
// deployment can be tried as they are. Conditions or elements that are not understood make ParsePolicy fail, because ignoring one would widen the policy.
type Policy struct {
	Version   string
	ID        string `json:"Id"`
	Statement statements
}

// Statement is one statement of a Policy.
type Statement struct {
	Sid       string
	Effect    string // Allow or Deny
	Principal principals
	Action    texts
	NotAction texts
	Resource  texts
	Condition map[string]map[string]texts // operator, key, values
}

// ParsePolicy reads an IAM policy document.
func ParsePolicy(text string) (Policy, error) {
	var p Policy
	d := json.NewDecoder(strings.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&p); err != nil {
		return Policy{}, fmt.Errorf("awsemu: policy: %w", err)
	}
	for i, s := range p.Statement {
		if err := s.check(); err != nil {
			return Policy{}, fmt.Errorf("awsemu: policy statement %d: %w", i, err)
		}
	}
	return p, nil
}

// MustParsePolicy is ParsePolicy for constants; it panics where that fails.
func MustParsePolicy(text string) Policy {
	p, err := ParsePolicy(text)
	if err != nil {
		panic(err)
	}
	return p
}

// Trust gives the trust policy that lets the given principals (ARNs, or an account's root ARN) assume a role, with session tags and source identity.
func Trust(arns ...string) Policy {
	return Policy{Statement: statements{{
		Effect: "Allow", Principal: principals(arns), Action: texts{"sts:AssumeRole", "sts:TagSession", "sts:SetSourceIdentity"},
	}}}
}

// Allow gives the policy that allows actions on resources, without conditions.
func Allow(actions []string, resources ...string) Policy {
	return Policy{Statement: statements{{Effect: "Allow", Action: actions, Resource: resources}}}
}

func (s *Statement) check() error {
	if s.Effect != "Allow" && s.Effect != "Deny" {
		return fmt.Errorf("effect %q is neither Allow nor Deny", s.Effect)
	}
	if (len(s.Action) == 0) == (len(s.NotAction) == 0) {
		return fmt.Errorf("one of Action and NotAction is needed")
	}
	for operator := range s.Condition {
		if _, ok := operators[baseOperator(operator)]; !ok {
			return fmt.Errorf("condition operator %q is not understood", operator)
		}
	}
	return nil
}

// question is one authorisation: may somebody do action on resource, in this context?
type question struct {
	action   string
	resource string
	context  map[string][]string // condition keys in lower case
}

// verdict of a policy: an explicit Deny beats an Allow, silence denies.
type verdict int

const (
	silent verdict = iota
	allowed
	denied
)

// evaluate asks an identity or session policy.
func (p Policy) evaluate(q question) verdict {
	return p.judge(q, func(s *Statement) bool { return matchAny(s.Resource, q.resource, q.context) })
}

// trusts asks a trust policy, where the role is the resource and the principal is named in the statement.
func (p Policy) trusts(q question, who *principal) verdict {
	return p.judge(q, func(s *Statement) bool { return s.Principal.names(who) })
}

func (p Policy) judge(q question, concerns func(*Statement) bool) verdict {
	result := silent
	for i := range p.Statement {
		s := &p.Statement[i]
		if !s.concernsAction(q.action) || !concerns(s) || !s.conditionsHold(q.context) {
			continue
		}
		if s.Effect == "Deny" {
			return denied
		}
		result = allowed
	}
	return result
}

func (s *Statement) concernsAction(action string) bool {
	match := func(pattern string) bool { return wildcard(strings.ToLower(pattern), strings.ToLower(action)) }
	if len(s.NotAction) > 0 {
		return !slices.ContainsFunc(s.NotAction, match)
	}
	return slices.ContainsFunc(s.Action, match)
}

func matchAny(patterns []string, value string, context map[string][]string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return wildcard(expand(p, context), value) })
}

// wildcard matches * and ? as IAM does, over the whole value.
func wildcard(pattern, value string) bool {
	star, mark, v := -1, 0, 0
	p := 0
	for v < len(value) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, v
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == value[v]):
			p++
			v++
		case star >= 0:
			p = star + 1
			mark++
			v = mark
		default:
			return false
		}
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// texts is a JSON string or a list of them.
type texts []string

// UnmarshalJSON accepts both forms, and true and false as IAM does for Bool.
func (t *texts) UnmarshalJSON(b []byte) error {
	var many []any
	if err := json.Unmarshal(b, &many); err != nil {
		var one any
		if err := json.Unmarshal(b, &one); err != nil {
			return err
		}
		many = []any{one}
	}
	*t = nil
	for _, v := range many {
		switch v := v.(type) {
		case string:
			*t = append(*t, v)
		case bool:
			*t = append(*t, fmt.Sprint(v))
		default:
			return fmt.Errorf("%v is not text", v)
		}
	}
	return nil
}

// statements is one statement or a list of them.
type statements []Statement

// UnmarshalJSON accepts both forms.
func (s *statements) UnmarshalJSON(b []byte) error {
	if len(b) > 0 && b[0] == '{' {
		b = append(append([]byte{'['}, b...), ']')
	}
	type plain []Statement
	d := json.NewDecoder(bytes.NewReader(b))
	d.DisallowUnknownFields()
	return d.Decode((*plain)(s))
}

// principals are the ARNs and account numbers of a trust policy; "*" is everybody.
type principals []string

// UnmarshalJSON accepts "*" and {"AWS": …}; services and federated principals do not exist here.
func (p *principals) UnmarshalJSON(b []byte) error {
	var one string
	if json.Unmarshal(b, &one) == nil {
		*p = principals{one}
		return nil
	}
	var kinds map[string]texts
	if err := json.Unmarshal(b, &kinds); err != nil {
		return err
	}
	*p = principals(kinds["AWS"])
	return nil
}

// names reports whether the principal, its role, or its whole account is meant.
func (p principals) names(who *principal) bool {
	return slices.ContainsFunc(p, func(arn string) bool {
		return arn == "*" || arn == who.arn || arn == who.account || (who.roleARN != "" && arn == who.roleARN) ||
			strings.HasPrefix(arn, "arn:") && strings.HasSuffix(arn, ":iam::"+who.account+":root")
	})
}
