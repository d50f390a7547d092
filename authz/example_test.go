package authz_test

import (
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const aliceKey = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTiLF5SqwDpzWA0nFKSLs5XHpDQgEYSnHRHkYAdlyNy alice@laptop"

// From a proven key to a decision.
func Example() {
	directory, err := authz.NewDirectory(authz.DirectoryConfig{
		Groups: []authz.Group{{Name: "developers", Role: "arn:aws:iam::111122223333:role/gw-developer"}},
		People: []authz.Person{{Name: "alice", Keys: []string{`from="10.0.0.0/8" ` + aliceKey}, Groups: []string{"developers"}}},
	})
	if err != nil {
		panic(err)
	}
	policy, err := authz.LoadPolicy([]authz.PolicyFile{{Name: "dev.cedar", Text: []byte(`
		@id("dev-shells") @max_session("8h")
		permit (principal in Group::"developers", action in Action::"session", resource)
		when { resource.hasTag("Env") && resource.getTag("Env") == "dev" };
	`)}})
	if err != nil {
		panic(err)
	}

	key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(aliceKey))
	if err != nil {
		panic(err)
	}
	now := time.Now()
	alice, err := directory.Identify(key, netip.MustParseAddrPort("10.1.2.3:50022"), now) // only after the signature was verified
	if err != nil {
		panic(err)
	}
	machine := &authz.Instance{ID: "i-0123456789abcdef0", Account: "111122223333", Region: "eu-west-1", Tags: map[string]string{"Env": "dev"}}
	role, err := directory.RoleFor(alice, "", machine.Account)
	if err != nil {
		panic(err)
	}
	fmt.Println(alice.Person, "as", role.ARN)

	question := authz.Request{Identity: alice, Instance: machine, OSUser: "ec2-user", Action: authz.ActionShell, Now: now}
	shell := policy.Decide(question)
	fmt.Println("shell:", shell.Allow, shell.Policies, shell.Obligations.MaxSession)

	question.Action, question.DestHost, question.DestPort = authz.ActionForwardLocal, "db.internal", 5432
	tunnel := policy.Decide(question)
	fmt.Println("tunnel:", tunnel.Allow, tunnel.Reason)
	// Output:
	// alice as arn:aws:iam::111122223333:role/gw-developer
	// shell: true [dev-shells] 8h0m0s
	// tunnel: false not_permitted
}

// A login name of the direct shape, as in ssh ec2-user@i-0123456789abcdef0@gateway.
func ExampleParseLogin() {
	osUser, target, ok := authz.ParseLogin("svc@corp.example@i-0123456789abcdef0.prod")
	fmt.Println(osUser, target, ok)
	// Output: svc@corp.example i-0123456789abcdef0.prod true
}
