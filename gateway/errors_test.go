package gateway

import (
	"context"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"strconv"
	"strings"
	"testing"
	"unicode"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// allReasons reads the reasons from their source, so that a new one without words fails here.
func allReasons(t *testing.T) []authz.Reason {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../authz/refusal.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var reasons []authz.Reason
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok || len(spec.Names) != 1 || !strings.HasPrefix(spec.Names[0].Name, "Reason") || len(spec.Values) != 1 {
			return true
		}
		if lit, ok := spec.Values[0].(*ast.BasicLit); ok {
			text, err := strconv.Unquote(lit.Value)
			if err != nil {
				t.Fatal(err)
			}
			reasons = append(reasons, authz.Reason(text))
		}
		return true
	})
	if len(reasons) < 30 {
		t.Fatalf("found only %d reasons", len(reasons))
	}
	return reasons
}

func TestEveryReasonHasASentenceAndAStep(t *testing.T) {
	reasons := allReasons(t)
	for _, reason := range reasons {
		if phrases[reason] == nil {
			t.Errorf("%s has no words", reason)
			continue
		}
		for _, r := range []*authz.Refusal{
			{Reason: reason},
			{Reason: reason, Subject: "web-1", Action: "ssm:StartSession", Detail: "a fact", Role: "arn:aws:iam::1:role/r", Candidates: []string{"i-1"}, Cause: errors.New("secret cause")},
		} {
			text := sentence(r, "7f3a9c")
			what, step, two := strings.Cut(text, "; ")
			if !two || what == "" || strings.HasPrefix(step, "[") || !strings.HasSuffix(text, " [ref 7f3a9c]") {
				t.Errorf("%s: %q is not a sentence, a step and a reference", reason, text)
			}
			if strings.Contains(text, "secret cause") || strings.Contains(text, "  [") || strings.Contains(text, "()") {
				t.Errorf("%s: %q", reason, text)
			}
			if reason != authz.ReasonAccessDenied && strings.Contains(text, "arn:") {
				t.Errorf("%s tells a role: %q", reason, text)
			}
			if first := []rune(text)[0]; unicode.IsUpper(first) && !strings.HasPrefix(text, "AWS") && !strings.HasPrefix(text, "Session Manager") && !strings.HasPrefix(text, "SSM") {
				t.Errorf("%s begins with a capital: %q", reason, text)
			}
		}
	}
	if len(phrases) != len(reasons) {
		t.Errorf("%d phrases for %d reasons", len(phrases), len(reasons))
	}
}

func TestSentenceOfOtherErrors(t *testing.T) {
	for _, test := range []struct {
		err  error
		want string
	}{
		{errors.New("nil pointer at 0xdeadbeef"), "something went wrong in the gateway"},
		{fmt.Errorf("resolve: %w", context.DeadlineExceeded), "took too long"},
		{fmt.Errorf("open port: %w", &authz.Refusal{Reason: authz.ReasonThrottled}), "AWS asks for fewer calls"},
		{&authz.Refusal{Reason: "made up"}, "something went wrong"},
	} {
		if got := sentence(test.err, "x"); !strings.Contains(got, test.want) || strings.Contains(got, "deadbeef") {
			t.Errorf("%v: %q", test.err, got)
		}
	}
}

func TestSentencesAreSafeForTerminals(t *testing.T) {
	nasty := "\x1b]0;owned\x07\u202e" + strings.Repeat("x", 5000) + "\xff\n"
	text := sentence(&authz.Refusal{Reason: authz.ReasonAmbiguousTarget, Subject: nasty, Candidates: slicesOf(nasty, 100)}, "x")
	if strings.ContainsFunc(text, func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }) {
		t.Errorf("%q", text)
	}
	if len(text) > 30*(wordLimit+10) {
		t.Errorf("%d bytes long", len(text))
	}
}

func slicesOf(s string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = s
	}
	return out
}
