package awscloud

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

func TestParseTarget(t *testing.T) {
	const id = "i-0123456789abcdef0"
	isAccount := func(label string) bool {
		return strings.EqualFold(label, "prod") || accountIDPattern.MatchString(label)
	}
	for _, test := range []struct {
		typed string
		want  target
	}{
		{id, target{form: formInstance, base: id}},
		{strings.ToUpper(id[:2]) + id[2:], target{form: formInstance, base: id}},
		{id + ".eu-west-1", target{form: formInstance, base: id, region: "eu-west-1"}},
		{id + ".prod.us-gov-west-1", target{form: formInstance, base: id, region: "us-gov-west-1", account: "prod"}},
		{id + ".eusc-de-east-1.111122223333", target{form: formInstance, base: id, region: "eusc-de-east-1", account: "111122223333"}},
		{"mi-0123456789abcdef0", target{form: formManaged, base: "mi-0123456789abcdef0"}},
		{"web", target{base: "web"}},
		{"web.1", target{base: "web.1"}},
		{"web.1.prod.eu-west-1", target{base: "web.1", region: "eu-west-1", account: "prod"}},
		{"prod", target{base: "prod"}}, // a suffix needs something to be the suffix of
		{"10.0.0.5", target{form: formAddress, base: "10.0.0.5"}},
		{"10.0.0.5.eu-west-1.prod", target{form: formAddress, base: "10.0.0.5", region: "eu-west-1", account: "prod"}},
		{"2001:db8::5", target{form: formAddress, base: "2001:db8::5"}},
		{"ip-10-0-0-5", target{form: formAddress, base: "10.0.0.5"}},
		{"ip-10-0-0-5.eu-west-1.compute.internal", target{form: formDNS, base: "ip-10-0-0-5.eu-west-1.compute.internal"}},
		{"ip-10-0-0-5.ec2.internal.prod", target{form: formDNS, base: "ip-10-0-0-5.ec2.internal", account: "prod"}},
		{"env:staging", target{form: formTag, key: "env", base: "staging"}},
		{"env:staging.prod", target{form: formTag, key: "env", base: "staging", account: "prod"}},
		{"aws:autoscaling:groupName:web", target{form: formTag, key: "aws:autoscaling:groupName", base: "web"}},
	} {
		got, err := parseTarget(test.typed, isAccount)
		if err != nil {
			t.Errorf("%s: %v", test.typed, err)
		} else if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(target{})); diff != "" {
			t.Errorf("%s: %s", test.typed, diff)
		}
	}
	for _, typed := range []string{"", "we*b", "w?b", `w\b`, id + ".nowhere", id + ".eu-west-1.eu-west-2", "web.eu-west-1.eu-west-2", "169.254.169.254", "localhost"} {
		_, err := parseTarget(typed, isAccount)
		var refusal *authz.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != authz.ReasonBadTargetName {
			t.Errorf("%q: got %v, want a bad target name", typed, err)
		}
	}
}

// TestAnyCase: the pattern may be wider than the text, never narrower, and holds no letter whose case could differ.
func TestAnyCase(t *testing.T) {
	for text, want := range map[string]string{"web-1": "???-1", "Straße": "??????", "": "", "2024.05_x": "2024.05_?"} {
		if got := anyCase(text); got != want {
			t.Errorf("%q: got %q, want %q", text, got, want)
		}
	}
}

func TestPartitionOf(t *testing.T) {
	for region, want := range map[string]string{
		"eu-west-1": "aws", "cn-north-1": "aws-cn", "us-gov-east-1": "aws-us-gov", "us-iso-east-1": "aws-iso", "us-isob-east-1": "aws-iso-b", "eusc-de-east-1": "aws-eusc",
	} {
		if got := partitionOf(region); got != want {
			t.Errorf("%s: got %s, want %s", region, got, want)
		}
	}
}
