package e2e

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// TestCloudTrail reads what AWS has seen of one login: the person's role session with their name as SourceIdentity signed what reaches the machine,
// and the gateway's own role signed nothing but AssumeRole and calls that describe.
func TestCloudTrail(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		from := time.Now()
		if got := w.as("bob").ssh(t, nil, target, "true"); got.code != 0 {
			t.Fatalf("bob: %s", got)
		}
		seen := map[string]int{}
		for _, call := range w.callsSince(from) {
			if call.SessionName == "" {
				if call.Action != "AssumeRole" && call.Action != "GetCallerIdentity" && call.Action != "ListTagsForResource" && !strings.HasPrefix(call.Action, "Describe") {
					t.Errorf("the gateway's own role signed %s:%s", call.Service, call.Action)
				}
				continue
			}
			if call.SourceIdentity != call.SessionName {
				t.Errorf("%s:%s by session %q has source identity %q", call.Service, call.Action, call.SessionName, call.SourceIdentity)
			}
			if call.SessionName == "bob" && call.Error == "" {
				seen[call.Action]++
			}
		}
		for _, action := range []string{"StartSession", "SendSSHPublicKey"} {
			if seen[action] == 0 {
				t.Errorf("no %s signed by bob's role session; seen: %v", action, seen)
			}
		}
	})
}

// callsSince gives what was asked of AWS after that, by whoever shares this world.
func (w *world) callsSince(from time.Time) []awsemu.Call {
	return slices.DeleteFunc(w.lab.AWS.Calls(), func(c awsemu.Call) bool { return c.Time.Before(from) })
}

// beginningsSince is callsSince without the ends of sessions: those of earlier tests come when they come.
func (w *world) beginningsSince(from time.Time) []awsemu.Call {
	return slices.DeleteFunc(w.callsSince(from), func(c awsemu.Call) bool { return c.Action == "TerminateSession" })
}

// openSessions counts the sessions that occupy something at AWS.
func (w *world) openSessions() int {
	open := 0
	for _, session := range w.lab.AWS.Sessions() {
		if !session.Over() {
			open++
		}
	}
	return open
}
