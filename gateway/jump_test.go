package gateway

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestJumpReachesTheMachineAsTheUserOfTheInnerLogin(t *testing.T) {
	w := newWorld(t, worldOptions{})
	outer := w.mustConnect(t, as("whatever-the-laptop-says", w.keys["alice"]))
	for _, name := range []string{worldInstance, "web-1"} {
		inner, err := w.jump(t, outer, name+":22", as("ec2-user", w.keys["alice-second"]))
		if err != nil {
			t.Fatal(err)
		}
		if out, _, status := run(t, inner, "whoami"); out != "ec2-user\n" || status != 0 {
			t.Errorf("%s: whoami said %q with status %d", name, out, status)
		}
		if _, _, status := run(t, inner, "exit 7"); status != 7 {
			t.Errorf("%s: exit 7 gave status %d", name, status)
		}
		if _, errs, _ := run(t, inner, "stderr apart"); errs != "apart" {
			t.Errorf("%s: stderr had %q", name, errs)
		}
	}
	w.cloud.mu.Lock()
	defer w.cloud.mu.Unlock()
	for _, role := range w.cloud.roles {
		if role.ARN != worldRole || role.SourceIdentity != "alice" {
			t.Errorf("a call was made as %+v", role)
		}
	}
	if len(w.cloud.pushed) != 1 || w.cloud.pushed[0] != "ec2-user@"+worldInstance { // within a minute the machine knows the key already
		t.Errorf("keys were pushed for %v", w.cloud.pushed)
	}
	if w.machine.offered != 2 { // x/crypto caches the answer to the query: one callback for each login
		t.Errorf("the machine was offered %d keys in two logins", w.machine.offered)
	}
}

func TestSeveralJumpsShareOneConnection(t *testing.T) {
	w := newWorld(t, worldOptions{})
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	first, err := w.jump(t, outer, worldInstance+":22", as("ec2-user", w.keys["alice"]))
	if err != nil {
		t.Fatal(err)
	}
	second, err := w.jump(t, outer, worldInstance+":22", as("ubuntu", w.keys["alice"]))
	if err != nil {
		t.Fatal(err)
	}
	if out, _, _ := run(t, second, "whoami"); out != "ubuntu\n" {
		t.Errorf("second: %q", out)
	}
	_ = second.Close()
	if out, _, _ := run(t, first, "whoami"); out != "ec2-user\n" {
		t.Errorf("first, after the second has gone: %q", out)
	}
}

func TestInnerLoginMustBeTheSamePerson(t *testing.T) {
	w := newWorld(t, worldOptions{})
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	inner := as("ec2-user", w.keys["bob"])
	if _, err := w.jump(t, outer, worldInstance+":22", inner); err == nil {
		t.Fatal("bob logged in through alice's connection")
	}
	if told := inner.banner.String(); !strings.Contains(told, "somebody else") || !strings.Contains(told, "[ref ") {
		t.Errorf("bob was told %q", told)
	}
	w.audit.wait(t, "different identity", func(e Event) bool { return e.Reason == string(authz.ReasonDifferentIdentity) })
	if len(w.cloud.pushed) != 0 {
		t.Errorf("a key was pushed: %v", w.cloud.pushed)
	}
}

func TestNamesThatAreNoMachineAreRefusedInWordsAndNeverDialled(t *testing.T) {
	w := newWorld(t, worldOptions{})
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	for _, host := range []string{"127.0.0.1", "169.254.169.254", "localhost", "::1", "fd00:ec2::254", "0x7f000001", "2130706433", "example.com", "", "a\x1b[31mb", strings.Repeat("a", 300)} {
		payload := ssh.Marshal(directTCPIP{Host: host, Port: 22, OriginHost: "127.0.0.1", OriginPort: 65535})
		_, _, err := outer.OpenChannel("direct-tcpip", payload)
		var refused *ssh.OpenChannelError
		ok := errors.As(err, &refused)
		if !ok || !strings.Contains(refused.Message, "[ref ") {
			t.Errorf("%q: %v", host, err)
		}
		if ok && strings.ContainsRune(refused.Message, '\x1b') {
			t.Errorf("%q: the words carry the escape", host)
		}
	}
	if len(w.cloud.resolved) != 1 || w.cloud.resolved[0] != "example.com" {
		t.Errorf("looked up: %q", w.cloud.resolved)
	}
	if w.cloud.next != 0 {
		t.Error("a session was started")
	}
}

func TestOtherChannelsAndForwardsOfTheOuterConnectionAreRefused(t *testing.T) {
	w := newWorld(t, worldOptions{})
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	for _, kind := range []string{"direct-streamlocal@openssh.com", "auth-agent@openssh.com", "x11", "forwarded-tcpip", "tun@openssh.com", "unheard-of"} {
		if _, _, err := outer.OpenChannel(kind, nil); err == nil {
			t.Errorf("%s was opened", kind)
		}
	}
	if _, err := outer.Listen("tcp", "127.0.0.1:0"); err == nil {
		t.Error("the gateway listens for a client")
	}
	if ok, _, err := outer.SendRequest("keepalive@openssh.com", true, nil); ok || err != nil {
		t.Errorf("keepalive: %v, %v; want a failure as the sign of life", ok, err)
	}
}

func TestWhatStandsInTheWayOfAMachineIsSaid(t *testing.T) {
	for name, test := range map[string]struct {
		call    string
		err     error
		atOpen  bool // the jump itself is refused; else the first channel behind the inner login is
		message string
	}{
		"unknown":    {"resolve", &authz.Refusal{Reason: authz.ReasonUnknownTarget, Subject: "web-1"}, true, "no machine web-1 is known"},
		"ambiguous":  {"resolve", &authz.Refusal{Reason: authz.ReasonAmbiguousTarget, Subject: "web-1", Candidates: []string{"i-1.eu-west-1"}}, true, "\n  i-1.eu-west-1"},
		"stopped":    {"start", &authz.Refusal{Reason: authz.ReasonInstanceState, Subject: "web-1", Detail: "stopped"}, false, "web-1 is stopped; start it"},
		"denied":     {"start", &authz.Refusal{Reason: authz.ReasonAccessDenied, Action: "ssm:StartSession", Role: worldRole}, false, "AWS does not allow ssm:StartSession as " + worldRole},
		"push":       {"push", &authz.Refusal{Reason: authz.ReasonThrottled}, false, "AWS asks for fewer calls"},
		"data":       {"dial", io.ErrUnexpectedEOF, false, "the data channel could not be opened"},
		"not a text": {"start", io.ErrUnexpectedEOF, false, "AWS answered with an error"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			w.cloud.refuseCall(test.call, test.err)
			outer := w.mustConnect(t, as("x", w.keys["alice"]))
			inner, err := w.jump(t, outer, "web-1:22", as("ec2-user", w.keys["alice"]))
			if !test.atOpen {
				if err != nil {
					t.Fatal(err)
				}
				_, err = inner.NewSession()
			}
			var refused *ssh.OpenChannelError
			if !errors.As(err, &refused) || !strings.Contains(refused.Message, test.message) {
				t.Fatalf("told %v, want %q", err, test.message)
			}
			_, ref, _ := strings.Cut(refused.Message, "[ref ")
			ref = strings.TrimSuffix(ref, "]")
			if ref == "" || !strings.Contains(w.log.String(), "ref="+ref) {
				t.Errorf("the log has no line with ref %q", ref)
			}
			w.audit.wait(t, "with the reference", func(e Event) bool { return e.Ref == ref && e.Cause != "" })
		})
	}
}

func TestPlainPortCarriesBytes(t *testing.T) {
	w := newWorld(t, worldOptions{})
	near, far := testkit.TCPPair(t)
	w.cloud.port = func(port int) (net.Conn, error) {
		if port != 5432 {
			t.Errorf("port %d was opened", port)
		}
		return near, nil
	}
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	client, err := outer.Dial("tcp", worldInstance+":5432")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(client, "question"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 8)
	if _, err := io.ReadFull(far, buf); err != nil || string(buf) != "question" {
		t.Fatalf("the machine read %q, %v", buf, err)
	}
	_, _ = io.WriteString(far, "answer")
	_ = far.Close()
	if answer, err := io.ReadAll(client); string(answer) != "answer" || err != nil {
		t.Errorf("the client read %q, %v", answer, err)
	}
	_ = client.Close()
	e := w.audit.waitFor(t, EventChannelClosed)
	if e.BytesIn != 8 || e.BytesOut != 6 || e.NotSeen == "" || e.Port != 5432 {
		t.Errorf("audited as %+v", e)
	}
}

func TestPlainPortNeedsTheForwardPermission(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `@id("only-sessions") permit (principal, action in Action::"session", resource);`})
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	_, err := outer.Dial("tcp", worldInstance+":5432")
	if err == nil || !strings.Contains(err.Error(), "forward-local is not permitted") {
		t.Errorf("told %v", err)
	}
	if w.cloud.next != 0 {
		t.Error("a session was started")
	}
}

func TestInnerLoginWithoutAKeyOnlyWherePolicySaysSo(t *testing.T) {
	for name, policy := range map[string]string{
		"waived":   `@id("waived") @inner_auth("connection") permit (principal, action, resource);`,
		"demanded": "",
		// for one user it is waived, for the other it is not, and which one it is shows only at the inner login
		"by user": `@id("a") @inner_auth("connection") permit (principal, action, resource) when { context.osUser == "ec2-user" };
			@id("b") permit (principal, action, resource) when { context.osUser == "root" };`,
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{policy: policy})
			outer := w.mustConnect(t, as("x", w.keys["alice"]))
			keyless := &login{user: "ec2-user"}
			inner, err := w.jump(t, outer, worldInstance+":22", keyless)
			if (err == nil) != (name == "waived") {
				t.Fatalf("login without a key: %v", err)
			}
			if err == nil {
				if out, _, _ := run(t, inner, "whoami"); out != "ec2-user\n" {
					t.Errorf("whoami: %q", out)
				}
			}
			if _, err := w.jump(t, outer, worldInstance+":22", as("ec2-user", w.keys["alice"])); err != nil {
				t.Errorf("login with a key: %v", err)
			}
		})
	}
}

func TestConditionsOnTheOSUserHoldForJumps(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `@id("ec2-user-only") permit (principal, action, resource) when { context.osUser == "ec2-user" };`})
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	if _, err := w.jump(t, outer, worldInstance+":22", as("ec2-user", w.keys["alice"])); err != nil {
		t.Errorf("ec2-user: %v", err)
	}
	root := as("root", w.keys["alice"])
	if _, err := w.jump(t, outer, worldInstance+":22", root); err == nil {
		t.Error("root got in")
	}
	if told := root.banner.String(); !strings.Contains(told, "you may not connect to "+worldInstance) {
		t.Errorf("told %q", told)
	}
}

func TestARecordingThatNobodyMakesIsARefusal(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `@id("recorded") @record("required") permit (principal, action, resource);`})
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	if _, err := outer.Dial("tcp", worldInstance+":22"); err == nil || !strings.Contains(err.Error(), "does not record") {
		t.Errorf("told %v", err)
	}
}
