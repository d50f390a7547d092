package authz

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	cedar "github.com/cedar-policy/cedar-go"
	"github.com/cedar-policy/cedar-go/x/exp/ast"
)

// CheckNames finds policies that speak of people or groups whom the directory does not have. The schema cannot know them, and a forbid for a
// group with a slip in its name forbids nobody. The error joins a *Finding for each name.
func (p *Policy) CheckNames(d *Directory) error {
	var findings []error
	for _, id := range p.IDs() {
		policy := p.rules[cedar.PolicyID(id)].policy
		for _, name := range namesIn((*ast.Policy)(policy.AST())) {
			known := name.Type == typeGroup && d.groups[string(name.ID)] != nil || name.Type == typeUser && d.people[string(name.ID)] != nil
			if known {
				continue
			}
			pos := policy.Position()
			findings = append(findings, &Finding{
				Path: pos.Filename, Line: pos.Line, Col: pos.Column, Message: fmt.Sprintf("policy %q: %s is not configured", id, name),
			})
		}
	}
	return errors.Join(findings...)
}

// namesIn lists the people and groups of a policy, each once, sorted.
func namesIn(policy *ast.Policy) []cedar.EntityUID {
	var names []cedar.EntityUID
	add := func(uid cedar.EntityUID) {
		if (uid.Type == typeUser || uid.Type == typeGroup) && !slices.Contains(names, uid) {
			names = append(names, uid)
		}
	}
	switch scope := policy.Principal.(type) {
	case ast.ScopeTypeEq:
		add(scope.Entity)
	case ast.ScopeTypeIn:
		add(scope.Entity)
	case ast.ScopeTypeIsIn:
		add(scope.Entity)
	}
	for _, condition := range policy.Conditions {
		ast.Inspect(ast.NewNode(condition.Body), func(n ast.IsNode) bool {
			if value, ok := n.(ast.NodeValue); ok {
				if uid, ok := value.Value.(cedar.EntityUID); ok {
					add(uid)
				}
			}
			return true
		})
	}
	slices.SortFunc(names, func(a, b cedar.EntityUID) int { return strings.Compare(a.String(), b.String()) })
	return names
}
