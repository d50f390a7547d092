package gateway

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// holdCat runs cat in a session, on a terminal or not, until the test ends it.
func holdCat(t *testing.T, client *ssh.Client, terminal bool) *ssh.Session {
	t.Helper()
	s, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if terminal {
		if err := s.RequestPty("vt100", 24, 80, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := s.Start("cat"); err != nil {
		t.Fatal(err)
	}
	return s
}

func (w *world) lanesTo(place string) int {
	w.srv.lanes.mu.Lock()
	defer w.srv.lanes.mu.Unlock()
	return w.srv.lanes.byMachine[place]
}

func TestALaneIsASessionOfItsOwnWithTheSameKey(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	holdCat(t, client, true)
	holdCat(t, client, false)
	if got := w.cloud.open(); got != 2 {
		t.Errorf("a terminal and a command are on %d sessions", got)
	}
	w.cloud.mu.Lock()
	if len(w.cloud.pushed) != 1 {
		t.Errorf("the key was pushed %d times within its minute", len(w.cloud.pushed))
	}
	w.cloud.mu.Unlock()
	place := worldAccount + "/eu-west-1/" + worldInstance
	if got := w.lanesTo(place); got != 1 {
		t.Errorf("%d lanes are counted", got)
	}
	_ = client.Close()
	w.audit.waitFor(t, EventConnectionClosed)
	testkit.Eventually(t, "the lane's seat", func() bool { return w.lanesTo(place) == 0 })
}

func TestALaneBeyondTheLimitsIsDoneWithout(t *testing.T) {
	for name, test := range map[string]struct {
		limits   Limits
		sessions int // of two connections
	}{
		"of a connection": {Limits{LanesPerConnection: 1}, 2},
		"of a person":     {Limits{LanesPerPerson: 1}, 3},
		"of a machine":    {Limits{LanesPerMachine: 1}, 3},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{limits: test.limits})
			before := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
			holdCat(t, before, true)
			holdCat(t, before, false) // takes the only seat, where there is one
			client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
			holdCat(t, client, true)
			holdCat(t, client, false)
			if got := w.cloud.open(); got != test.sessions {
				t.Errorf("%d sessions, want %d", got, test.sessions)
			}
			if out, _, _ := run(t, client, "whoami"); out != "ec2-user\n" {
				t.Errorf("whoami: %q", out)
			}
		})
	}
}

func TestASessionThatTheServiceEndsTakesOneLane(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	shell := holdCat(t, client, true)
	held := holdCat(t, client, false)
	w.machine.mu.Lock()
	_ = w.machine.conns[1].Close()
	w.machine.mu.Unlock()
	testkit.Within(t, "the end of the lane's command", func() { _ = held.Wait() })
	e := w.audit.wait(t, "of the command's end", func(e Event) bool { return e.Event == EventChannelClosed && e.Cause != "" })
	if e.Reason != string(authz.ReasonSessionEnded) || !strings.Contains(e.Cause, "the connection to the machine was lost") {
		t.Errorf("audited as %s: %s", e.Reason, e.Cause)
	}
	if err := shell.Signal(ssh.SIGTERM); err != nil {
		t.Errorf("the shell is gone too: %v", err)
	}
	if out, _, _ := run(t, client, "whoami"); out != "ec2-user\n" {
		t.Errorf("whoami: %q", out)
	}
}

// TestNothingIsDoneAsAnyRoleBeforeTheUserIsKnown: who has no role of their own may have one as some user of the machine.
func TestNothingIsDoneAsAnyRoleBeforeTheUserIsKnown(t *testing.T) {
	const special = "arn:aws:iam::111122223333:role/root-only"
	w := newWorld(t, worldOptions{policy: `@id("root") @role("` + special + `") permit (principal, action, resource) when { context.osUser == "root" };`})
	w.people = append(w.people, authz.Person{Name: "carol", Keys: []string{authorized(w.keys["stranger"])}})
	w.srv.Reload(w.directory(t), w.srv.rules.Load().policy)
	for _, person := range []string{"stranger", "alice"} { // without a role of their own, and with another
		outer := w.mustConnect(t, as("x", w.keys[person]))
		inner, err := w.jump(t, outer, worldInstance+":22", as("root", w.keys[person]))
		if err != nil {
			t.Fatal(err)
		}
		if out, _, _ := run(t, inner, "whoami"); out != "root\n" {
			t.Errorf("whoami: %q", out)
		}
		if _, err := w.jump(t, outer, worldInstance+":22", as("ec2-user", w.keys[person])); err == nil {
			t.Error("another user got in")
		}
	}
	w.cloud.mu.Lock()
	defer w.cloud.mu.Unlock()
	if len(w.cloud.roles) != 4 || slices.ContainsFunc(w.cloud.roles, func(r authz.Role) bool { return r.ARN != special }) {
		t.Errorf("calls were made as %+v", w.cloud.roles)
	}
}
