package awscloud

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

func TestResolveForms(t *testing.T) {
	c := cloudIn(t, world(t), Config{Aliases: map[string]string{"Bastion": "web.dev"}})
	for name, want := range map[string]string{
		webID:                                    webID,
		webID + ".eu-west-1":                     webID,
		devWeb + ".dev":                          devWeb,
		devWeb + ".eu-west-1." + devID:           devWeb,
		"web.prod":                               webID,
		"WEB.dev.eu-west-1":                      devWeb,
		"db.1":                                   dbID, // its namesake is terminated
		"env:prod.eu-west-1":                     webID,
		"Env:Prod.us-east-1":                     dbID,
		"10.1.0.5":                               dbID,
		"10.0.0.5.dev":                           devWeb,
		"ip-10-1-0-5":                            dbID,
		"ip-10-0-0-5.eu-west-1.compute.internal": webID,
		"bastion":                                devWeb,
		goneID:                                   goneID, // by its id, so that the person hears that it is terminated
	} {
		if got, err := c.Resolve(t.Context(), name); err != nil || got.ID != want {
			t.Errorf("%s: got %+v, %v; want %s", name, got, err, want)
		}
	}
	got := mustResolve(t, c, webID)
	want := &authz.Instance{
		ID: webID, Partition: "aws", Account: prodID, Region: "eu-west-1", Zone: "eu-west-1a", Name: "Web", State: "running", Platform: "Linux/UNIX",
		PrivateIP: "10.0.0.5", PrivateDNS: "ip-10-0-0-5.eu-west-1.compute.internal", LaunchTime: got.LaunchTime, Tags: map[string]string{"Name": "Web", "Env": "Prod"},
	}
	if diff := cmp.Diff(want, got); diff != "" || got.LaunchTime.IsZero() {
		t.Error(diff)
	}
}

func TestResolveNothing(t *testing.T) {
	c := cloudIn(t, world(t), Config{})
	for _, name := range []string{nobody, "nothing", "Env:nowhere", webID + ".us-east-1", webID + ".dev", webID + ".ap-south-1", "web." + "999999999999", "10.9.9.9", "we", "wxb"} {
		_, err := c.Resolve(t.Context(), name)
		var refusal *authz.Refusal
		if !errors.As(err, &refusal) || refusal.Reason != authz.ReasonUnknownTarget || refusal.Subject != name {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestResolveSeveral: the candidates are what to type, and typing one works. Names that differ in case only are several too.
func TestResolveSeveral(t *testing.T) {
	c := cloudIn(t, world(t), Config{})
	for _, name := range []string{"web", "10.0.0.5"} {
		_, err := c.Resolve(t.Context(), name)
		refusal := wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonAmbiguousTarget, Subject: name})
		want := []string{webID + ".eu-west-1.prod  (Web, running)", devWeb + ".eu-west-1.dev  (web, running)"}
		if diff := cmp.Diff(want, refusal.Candidates); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		for _, candidate := range refusal.Candidates {
			typed, _, _ := strings.Cut(candidate, " ")
			if got := mustResolve(t, c, typed); !strings.HasPrefix(typed, got.ID+".") {
				t.Errorf("%s leads to %s", typed, got.ID)
			}
		}
	}
}

// TestResolveIncomplete: when a place does not answer, an id that another place knows is found, and a name that could be there too is not.
func TestResolveIncomplete(t *testing.T) {
	server := world(t)
	c := cloudIn(t, server, Config{})
	if err := server.SetRolePolicy(devView, awsemu.Allow([]string{"ssm:Describe*"}, "*")); err != nil {
		t.Fatal(err)
	}
	if got := mustResolve(t, c, webID); got.ID != webID {
		t.Errorf("got %s", got.ID)
	}
	for _, name := range []string{"wob", nobody} {
		_, err := c.Resolve(t.Context(), name)
		wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonAccessDenied, Subject: name, Action: actionDescribeInstances, Role: devView})
	}
	if got := mustResolve(t, c, "wob.prod"); got.ID != otherID {
		t.Errorf("with a suffix: got %s", got.ID)
	}
}

// TestResolveRemembers counts what AWS is asked: once for a machine, once for a name that does not exist, once for many who ask at the same time.
func TestResolveRemembers(t *testing.T) {
	server := world(t)
	c := cloudIn(t, server, Config{})
	count := func() int { return len(callsOf(server, "DescribeInstances")) }
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			if _, err := c.Resolve(t.Context(), "db.1.prod.us-east-1"); err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	if n := count(); n != 1 {
		t.Errorf("20 people asked for one name: %d calls", n)
	}
	for range 3 {
		if _, err := c.Resolve(t.Context(), nobody+".eu-west-1.prod"); err == nil {
			t.Error("found nobody")
		}
	}
	if n := count(); n != 2 {
		t.Errorf("a name that does not exist was asked for %d times", n-1)
	}
}

// TestMemories: what may soon be different is kept in the brief memory.
func TestMemories(t *testing.T) {
	c := cloudIn(t, world(t), Config{})
	for name, lasting := range map[string]bool{webID: true, dbID: false, nobody: false, "web": false} {
		_, _ = c.Resolve(t.Context(), name)
		if c.lasting.values.Contains(name) != lasting || c.brief.values.Contains(name) == lasting {
			t.Errorf("%s: lasting %t, brief %t", name, c.lasting.values.Contains(name), c.brief.values.Contains(name))
		}
	}
}

// TestUnlearn: a machine that AWS calls stopped is looked at again.
func TestUnlearn(t *testing.T) {
	server := world(t)
	c := cloudIn(t, server, Config{})
	web := mustResolve(t, c, webID)
	if err := server.UpdateInstance(webID, func(i *awsemu.Instance) { i.State = awsemu.StateStopped }); err != nil {
		t.Fatal(err)
	}
	err := c.PushKey(t.Context(), person(prodRole, "alice", nil), web, "ec2-user", testKey(t))
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonInstanceState, Subject: webID, Action: actionPushKey, Role: prodRole, Detail: "not running"})
	if got := mustResolve(t, c, webID); got.State != "stopped" {
		t.Errorf("still remembered as %s", got.State)
	}
}

// TestImpatient: who gives up does not spoil the answer for others.
func TestImpatient(t *testing.T) {
	c := cloudIn(t, world(t), Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := c.Resolve(ctx, webID)
	if err != nil { // the answer may be faster
		wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonTimeout, Subject: webID, Action: actionDescribeInstances})
	}
	mustResolve(t, c, webID)
}

// TestOthersMachines: credentials that show the machines of an account other than the configured one give none.
func TestOthersMachines(t *testing.T) {
	fake := newFakeAWS(t)
	fake.answer("DescribeInstances", http.StatusOK, `<DescribeInstancesResponse><reservationSet><item><ownerId>999999999999</ownerId><instancesSet><item><instanceId>`+
		webID+`</instanceId></item></instancesSet></item></reservationSet></DescribeInstancesResponse>`)
	c := cloudAt(t, fake.URL, Config{Accounts: []Account{{ID: prodID}}})
	_, err := c.Resolve(t.Context(), webID)
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonUnknownTarget, Subject: webID})
}

func TestAfterClose(t *testing.T) {
	c := cloudIn(t, world(t), Config{})
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	_, err := c.Resolve(t.Context(), webID)
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonShuttingDown, Subject: webID})
}
