package awscloud

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// TestAttribution reads AWS's own log: what reaches a machine is signed by the person's role session, everything else is Describe and AssumeRole.
func TestAttribution(t *testing.T) {
	server := world(t)
	c := cloudIn(t, server, Config{})
	alice := person(devRole, "alice", map[string]string{"team": "web"})
	dev := mustResolve(t, c, "web.dev")
	if err := c.PushKey(t.Context(), alice, dev, "ec2-user", testKey(t)); err != nil {
		t.Fatal(err)
	}
	_, err := c.StartPort(t.Context(), alice, dev, 22, "alice ref-1")
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonTargetNotConnected, Subject: devWeb, Action: actionStartSession, Role: devRole})
	if text, err := c.ConsoleOutput(t.Context(), alice, dev); err != nil || text != "boot\nlogin:" {
		t.Errorf("console: %q, %v", text, err)
	}
	for _, call := range server.Calls() {
		own := call.SessionName == "" || call.Role == devView
		switch call.Action {
		case "AssumeRole", "DescribeInstances", "DescribeInstanceInformation":
			if !own {
				t.Errorf("%s was signed by %s", call.Action, call.Principal)
			}
		default:
			if call.Role != devRole || call.SessionName != "alice" || call.SourceIdentity != "alice" || call.Tags["team"] != "web" || call.Region != "eu-west-1" {
				t.Errorf("%s was signed by %s as %q with %v", call.Action, call.Principal, call.SourceIdentity, call.Tags)
			}
		}
	}
	for _, action := range []string{"SendSSHPublicKey", "StartSession", "GetConsoleOutput"} {
		if len(callsOf(server, action)) == 0 {
			t.Errorf("no %s", action)
		}
	}
}

// TestTwoPeopleOneRole: many at once with the same role, and AWS never sees one under the name of another.
func TestTwoPeopleOneRole(t *testing.T) {
	server := world(t)
	for _, whole := range []bool{false, true} {
		t.Run(fmt.Sprintf("whole role %t", whole), func(t *testing.T) {
			server.ForgetCalls()
			c := cloudIn(t, server, Config{WholeRole: whole, PushRate: Rate{PerSecond: 1000, Burst: 1000}})
			web, other := mustResolve(t, c, webID), mustResolve(t, c, otherID)
			key := testKey(t)
			var group sync.WaitGroup
			for i := range 24 {
				name, osUser, on := "alice", "user-alice", web
				if i%2 == 1 {
					name, osUser = "bob", "user-bob"
				}
				if i%3 == 0 {
					on = other
				}
				group.Go(func() {
					if err := c.PushKey(t.Context(), person(prodRole, name, nil), on, osUser, key); err != nil {
						t.Error(err)
					}
				})
			}
			group.Wait()
			pushes := callsOf(server, "SendSSHPublicKey")
			if len(pushes) != 24 {
				t.Errorf("%d pushes", len(pushes))
			}
			for _, push := range pushes {
				if osUser := push.Params["InstanceOSUser"]; osUser != "user-"+push.SessionName || push.SourceIdentity != push.SessionName {
					t.Errorf("%s's push was signed by %s (%s)", osUser, push.SessionName, push.SourceIdentity)
				}
			}
			// Two people on two machines: credentials are shared by what is the same for both calls, and assumed once.
			if n := rolesAssumed(server, prodRole); n != 4 {
				t.Errorf("%d AssumeRole calls, want one for each person and machine", n)
			}
		})
	}
}

// TestNarrowedSession: credentials for one machine open no other, whatever the role may do.
func TestNarrowedSession(t *testing.T) {
	server := world(t)
	c := cloudIn(t, server, Config{})
	web, other := mustResolve(t, c, webID), mustResolve(t, c, otherID)
	alice := person(prodRole, "alice", nil)
	client, a, err := c.clientsOn(alice, web, "")
	if err != nil {
		t.Fatal(err)
	}
	credentials, err := client.credentials.Retrieve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	thief := cloudAt(t, server.URL(), Config{LoadConfig: staticSession(server.URL(), credentials)})
	if err := thief.PushKey(t.Context(), authz.Role{}, web, "ec2-user", testKey(t)); err != nil {
		t.Errorf("the machine they are for: %v", err)
	}
	err = thief.PushKey(t.Context(), authz.Role{}, other, "ec2-user", testKey(t))
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonAccessDenied, Subject: otherID, Action: actionPushKey})

	policy, err := sessionPolicy(a, web, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(policy) > 1024 {
		t.Errorf("the policy has %d characters, half of what STS takes with tags", len(policy))
	}
	var got struct{ Statement []statement }
	if err := json.Unmarshal([]byte(policy), &got); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"arn:aws:ec2:eu-west-1:" + prodID + ":instance/" + webID,
		"arn:aws:ssm:eu-west-1::document/AWS-StartSSHSession", "arn:aws:ssm:eu-west-1::document/AWS-StartPortForwardingSession",
	}
	if diff := cmp.Diff(want, got.Statement[0].Resource); diff != "" {
		t.Error(diff)
	}
}

// TestForget: after it the role is assumed again, for that person only.
func TestForget(t *testing.T) {
	server := world(t)
	c := cloudIn(t, server, Config{})
	web, key := mustResolve(t, c, webID), testKey(t)
	push := func(name string) {
		t.Helper()
		if err := c.PushKey(t.Context(), person(prodRole, name, nil), web, "ec2-user", key); err != nil {
			t.Fatal(err)
		}
	}
	assumed := func() int { return rolesAssumed(server, prodRole) }
	push("alice")
	push("bob")
	before := assumed()
	push("alice")
	c.Forget("bob")
	push("alice")
	if n := assumed(); n != before {
		t.Errorf("forgetting bob cost alice %d AssumeRole calls", n-before)
	}
	push("bob")
	if n := assumed(); n != before+1 {
		t.Errorf("bob came back with %d AssumeRole calls", n-before)
	}
}

func TestCheckRoleAsksAgainOnlyWhereNothingIsHeld(t *testing.T) {
	server := world(t)
	c := cloudIn(t, server, Config{})
	web, alice := mustResolve(t, c, webID), person(prodRole, "alice", nil)
	assumed := func() int { return rolesAssumed(server, prodRole) }
	before := assumed()
	for range 2 {
		if err := c.CheckRole(t.Context(), alice, web); err != nil {
			t.Fatal(err)
		}
	}
	if err := c.PushKey(t.Context(), alice, web, "ec2-user", testKey(t)); err != nil || assumed() != before+1 {
		t.Errorf("%d AssumeRole calls (%v)", assumed()-before, err)
	}
	c.Forget("alice")
	if err := c.CheckRole(t.Context(), alice, web); err != nil || assumed() != before+2 {
		t.Errorf("%d AssumeRole calls after forgetting (%v)", assumed()-before, err)
	}
}

// TestExpired: credentials that AWS calls expired before their time are renewed once, unnoticed.
func TestExpired(t *testing.T) {
	server := world(t)
	c := cloudIn(t, server, Config{})
	web, key, alice := mustResolve(t, c, webID), testKey(t), person(prodRole, "alice", nil)
	for range 2 {
		if err := c.PushKey(t.Context(), alice, web, "ec2-user", key); err != nil {
			t.Fatal(err)
		}
		if server.Expire("alice") == 0 {
			t.Fatal("nothing to expire")
		}
	}
}

// TestRealRefusals: refusals that policies of AWS give, each naming what and as whom.
func TestRealRefusals(t *testing.T) {
	server := world(t)
	c := cloudIn(t, server, Config{})
	web, key := mustResolve(t, c, webID), testKey(t)
	if err := server.SetRolePolicy(prodRole, awsemu.MustParsePolicy(`{"Statement":[{"Effect":"Allow","Action":"ec2-instance-connect:SendSSHPublicKey",
		"Resource":"*","Condition":{"StringEquals":{"ec2:osuser":"ec2-user","aws:PrincipalTag/team":"web"}}}]}`)); err != nil {
		t.Fatal(err)
	}
	tagged := person(prodRole, "alice", map[string]string{"team": "web"})
	if err := c.PushKey(t.Context(), tagged, web, "ec2-user", key); err != nil {
		t.Errorf("with the tag: %v", err)
	}
	denied := authz.Refusal{Reason: authz.ReasonAccessDenied, Subject: webID, Action: actionPushKey, Role: prodRole}
	wantRefusal(t, c.PushKey(t.Context(), tagged, web, "root", key), denied)
	wantRefusal(t, c.PushKey(t.Context(), person(prodRole, "alice", nil), web, "ec2-user", key), denied)
	_, err := c.StartPort(t.Context(), tagged, web, 22, "")
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonAccessDenied, Subject: webID, Action: actionStartSession, Role: prodRole})
	stranger := person("arn:aws:iam::"+prodID+":role/nobody", "alice", nil)
	wantRefusal(t, c.PushKey(t.Context(), stranger, web, "ec2-user", key),
		authz.Refusal{Reason: authz.ReasonAccessDenied, Subject: webID, Action: "sts:AssumeRole", Role: stranger.ARN})
	// The gateway's own role reaches nothing by itself.
	wantRefusal(t, c.PushKey(t.Context(), authz.Role{}, web, "ec2-user", key), authz.Refusal{Reason: authz.ReasonAccessDenied, Subject: webID, Action: actionPushKey})
}

func TestCallerIdentityAndList(t *testing.T) {
	server := world(t)
	c := cloudIn(t, server, Config{})
	if got, err := c.CallerIdentity(t.Context()); err != nil || got.ARN != gatewayUser || got.Account != prodID {
		t.Errorf("got %+v, %v", got, err)
	}
	for range 2 {
		all, err := c.List(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, i := range all {
			names = append(names, i.Name+" "+i.Place())
		}
		want := "Web 111122223333/eu-west-1/" + webID + ", Wob 111122223333/us-east-1/" + otherID + ", db.1 111122223333/us-east-1/" + dbID + ", web 444455556666/eu-west-1/" + devWeb
		if got := strings.Join(names, ", "); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
	if n := len(callsOf(server, "DescribeInstances")); n != 3 {
		t.Errorf("listing twice cost %d calls, want one for each place", n)
	}
}

// TestRenewal: credentials are used until five minutes before their end.
func TestRenewal(t *testing.T) {
	for left, want := range map[time.Duration]int{4 * time.Minute: 2, 10 * time.Minute: 1} {
		fake := newFakeAWS(t)
		fake.answer("AssumeRole", http.StatusOK, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials><AccessKeyId>ASIAEXAMPLE</AccessKeyId>
			<SecretAccessKey>x</SecretAccessKey><SessionToken>t</SessionToken><Expiration>`+time.Now().Add(left).UTC().Format(time.RFC3339)+`</Expiration></Credentials></AssumeRoleResult></AssumeRoleResponse>`)
		fake.answer("SendSSHPublicKey", http.StatusOK, `{"RequestId":"r","Success":true}`)
		c := cloudAt(t, fake.URL, Config{})
		for range 2 {
			if err := c.PushKey(t.Context(), person(testRole, "alice", nil), testInstance, "ec2-user", testKey(t)); err != nil {
				t.Fatal(err)
			}
		}
		if n := len(fake.bodies("AssumeRole")); n != want {
			t.Errorf("with %s left: assumed %d times, want %d", left, n, want)
		}
	}
}
