package authz

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// PolicyFile is a file of Cedar policies.
type PolicyFile struct {
	Name string // for messages
	Text []byte
}

// Policy is a validated set of Cedar policies: what Decide asks. It is immutable.
type Policy struct {
	set   *cedar.PolicySet
	rules map[cedar.PolicyID]*rule
}

// rule is one Cedar policy with what we read from it at load.
type rule struct {
	policy      *cedar.Policy
	permit      bool
	message     string
	obligations Obligations
}

// builtinText is the policy in force where nobody wrote one: IAM is the outer fence and decides alone. It leaves the fallbacks out, which that fence does not
// enclose.
const builtinText = `@id("builtin-iam-decides")
permit (principal, action in [Action::"session", Action::"tunnel"], resource);
`

// BuiltinPolicy is what holds without a policy file: whoever is configured may do what their IAM role allows, inspected.
func BuiltinPolicy() *Policy {
	p, err := LoadPolicy([]PolicyFile{{Name: "builtin", Text: []byte(builtinText)}})
	if err != nil {
		panic("authz: the built-in policy does not load: " + err.Error()) // a constant, held by a test
	}
	return p
}

// LoadPolicy parses and strictly validates policies. Every policy needs an @id, unique over all files: it goes to audit, metrics and the person's
// message. Whatever is doubtful is an error here, because Cedar skips a policy that fails when it is asked, a forbid too. The error joins a
// *Finding for each problem. No policies at all is valid, and permits nothing.
func LoadPolicy(files []PolicyFile) (*Policy, error) {
	p := &Policy{set: cedar.NewPolicySet(), rules: map[cedar.PolicyID]*rule{}}
	var findings []error
	for _, file := range files {
		list, err := cedar.NewPolicyListFromBytes(file.Name, file.Text)
		if err != nil {
			findings = append(findings, parseFinding(file.Name, err))
			continue
		}
		for _, policy := range list {
			for _, f := range p.add(policy) {
				findings = append(findings, f)
			}
		}
	}
	if len(findings) > 0 {
		return nil, errors.Join(findings...)
	}
	return p, nil
}

// IDs lists the @id of every policy, sorted.
func (p *Policy) IDs() []string {
	ids := make([]string, 0, len(p.rules))
	for id := range p.rules {
		ids = append(ids, string(id))
	}
	slices.Sort(ids)
	return ids
}

// add takes one parsed policy in, or says everything that is wrong with it.
func (p *Policy) add(policy *cedar.Policy) []*Finding {
	pos := policy.Position()
	var findings []*Finding
	find := func(format string, args ...any) {
		findings = append(findings, &Finding{Path: pos.Filename, Line: pos.Line, Col: pos.Column, Message: fmt.Sprintf(format, args...)})
	}
	id := string(policy.Annotations()["id"])
	switch first, taken := p.rules[cedar.PolicyID(id)]; {
	case id == "":
		find(`a policy needs an @id("...")`)
	case taken:
		find("policy %q: @id is already used at %s", id, place(first.policy.Position()))
	}
	r, problems := readAnnotations(policy)
	problems = append(problems, validationProblems(policy)...)
	for _, problem := range problems {
		find("policy %q: %s", id, problem)
	}
	if len(findings) == 0 {
		p.set.Add(cedar.PolicyID(id), policy)
		p.rules[cedar.PolicyID(id)] = r
	}
	return findings
}

// validationProblems asks the schema.
func validationProblems(policy *cedar.Policy) []string {
	v, err := validator()
	if err != nil {
		return []string{err.Error()}
	}
	if err = v.Policy("", (*ast.Policy)(policy.AST())); err == nil {
		return nil
	}
	// The joined error has one line for each problem, and says the same again for each action that the policy applies to.
	problems := strings.Split(forAction.ReplaceAllString(err.Error(), "in context"), "\n")
	slices.Sort(problems)
	return slices.Compact(problems)
}

var forAction = regexp.MustCompile(`in context for Action::"[^"]*"`)

// parsePlace finds the place in cedar-go's message, its only home: `parser error: parse error at <input>:3:7 "foo": unexpected token`.
var parsePlace = regexp.MustCompile(`(?s)^parser error: parse error at (?:[^ ]*:)?(\d+):(\d+) (.*)$`)

func parseFinding(file string, err error) *Finding {
	m := parsePlace.FindStringSubmatch(err.Error())
	if m == nil {
		return &Finding{Path: file, Message: err.Error()}
	}
	line, _ := strconv.Atoi(m[1]) // digits by the pattern
	col, _ := strconv.Atoi(m[2])
	return &Finding{Path: file, Line: line, Col: col, Message: "no Cedar policy: " + inWords(m[3])}
}

// expected is how cedar-go says which token it wanted. What it got instead stands before the place that it names: `"(": exact got forbid want ;`.
var expected = regexp.MustCompile(`(?s)^".*": exact got (.*) want (.+)$`)

// inWords words what cedar-go says behind the place. The end of the text is a token without letters to it.
func inWords(message string) string {
	m := expected.FindStringSubmatch(message)
	switch {
	case m == nil:
		return "at " + message
	case m[1] == "":
		return fmt.Sprintf("the file ends where %q should stand", m[2])
	}
	return fmt.Sprintf("%q stands where %q should", m[1], m[2])
}

func place(pos cedar.Position) string {
	return fmt.Sprintf("%s:%d:%d", pos.Filename, pos.Line, pos.Column)
}
