package main

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// TestExplainTellsWhatThePolicyDemands: the role that a policy names, its annotations, and that one which demands a recording refuses here.
func TestExplainTellsWhatThePolicyDemands(t *testing.T) {
	const role = "arn:aws:iam::111122223333:role/breakglass"
	policy, err := authz.LoadPolicy([]authz.PolicyFile{{Name: "p.cedar", Text: []byte(`
@id("all") @role("` + role + `") @max_session("90m") @inner_auth("connection") @login("certificate") @sshd("none") permit (principal, action, resource);
@id("film") @record("required") @inner_auth("connection") permit (principal, action == Action::"shell", resource);`)}})
	if err != nil {
		t.Fatal(err)
	}
	directory, err := authz.NewDirectory(authz.DirectoryConfig{People: []authz.Person{{Name: "alice", Role: "arn:aws:iam::111122223333:role/alice"}}})
	if err != nil {
		t.Fatal(err)
	}
	who, err := directory.Hypothetical("alice", netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	on := &authz.Instance{ID: "i-0123456789abcdef0", Account: "111122223333", Region: "eu-west-1"}
	connect := policy.Decide(authz.Request{Identity: who, Instance: on, OSUser: "ubuntu", Action: authz.ActionConnect})
	terms := []string{`@login("certificate")`, `@inner_auth("connection")`, `@max_session("1h30m0s")`, `@sshd("none")`}
	if got := termsInWords(connect.Obligations); !verdictOf(authz.ActionConnect, connect).Allowed || !reflect.DeepEqual(got, terms) {
		t.Errorf("connect: %+v, with %q", connect, got)
	}
	if got := roleInWords(directory, who, on, &loadedConfig{}, connect.Obligations.Role); got != role+", by policy" {
		t.Errorf("as %s", got)
	}
	if got := roleInWords(directory, who, on, &loadedConfig{}, ""); got != "arn:aws:iam::111122223333:role/alice" {
		t.Errorf("without a word of the policy as %s", got)
	}
	shell := policy.Decide(authz.Request{Identity: who, Instance: on, OSUser: "ubuntu", Action: authz.ActionShell})
	if got := verdictOf(authz.ActionShell, shell); got.Allowed || got.Message == "" {
		t.Errorf("shell: %+v", got)
	}
}
