package gateway

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const passthroughPolicy = `@id("through") @mode("passthrough") permit (principal, action, resource);`

func TestPassthroughCarriesSSHEndToEnd(t *testing.T) {
	w := newWorld(t, worldOptions{policy: passthroughPolicy})
	outer := w.mustConnect(t, as("ec2-user", w.keys["alice"]))
	raw, err := outer.Dial("tcp", worldInstance+":22")
	if err != nil {
		t.Fatal(err)
	}
	conn, chans, reqs, err := ssh.NewClientConn(raw, worldInstance, as("ec2-user", w.keys["alice"]).config(ssh.FixedHostKey(w.machine.hostKey.PublicKey())))
	if err != nil {
		t.Fatal(err)
	}
	client := ssh.NewClient(conn, chans, reqs)
	if out, _, _ := run(t, client, "whoami"); out != "ec2-user\n" {
		t.Errorf("whoami: %q", out)
	}
	_ = client.Close()
	if e := w.audit.waitFor(t, EventUpstreamOpened); e.PushedKey != ssh.FingerprintSHA256(w.keys["alice"].PublicKey()) {
		t.Errorf("audited as %+v", e)
	}
	if e := w.audit.waitFor(t, EventChannelClosed); e.Mode != modePassthrough || e.NotSeen != "passthrough, not inspected" || *e.Inspected {
		t.Errorf("audited as %+v", e)
	}
}

func TestPassthroughNeedsAUserInTheOuterLogin(t *testing.T) {
	w := newWorld(t, worldOptions{policy: passthroughPolicy})
	outer := w.mustConnect(t, as("not a user name", w.keys["alice"]))
	if _, err := outer.Dial("tcp", worldInstance+":22"); err == nil || !strings.Contains(err.Error(), "ssh -J ec2-user@GATEWAY") {
		t.Errorf("told %v", err)
	}
}

// TestPassthroughUser: for whom the key is pushed. Nobody is told apart from the person, whose name clients send by themselves.
func TestPassthroughUser(t *testing.T) {
	const named = `@id("through") @mode("passthrough") permit (principal, action, resource) when { context.osUser == "ec2-user" || context.osUser == "admin" };`
	for name, test := range map[string]struct{ policy, fallback, login, want string }{
		"named in the login":               {passthroughPolicy, "admin", "ec2-user", "ec2-user"},
		"the person's own name":            {passthroughPolicy, "admin", "alice", "admin"},
		"the person's own, and no other":   {passthroughPolicy, "", "alice", "alice"},
		"no name of a user":                {passthroughPolicy, "admin", "Alice Smith", "admin"},
		"one whom policy does not let":     {named, "admin", "root", "admin"},
		"one whom policy lets":             {named, "admin", "ec2-user", "ec2-user"},
		"nobody, and the other may not":    {named, "root", "alice", ""},
		"nobody, and there is no fallback": {named, "", "alice", ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{policy: test.policy, cfg: func(cfg *Config) { cfg.PassthroughOSUser = test.fallback }})
			raw, err := w.mustConnect(t, as(test.login, w.keys["alice"])).Dial("tcp", worldInstance+":22")
			if err == nil {
				_ = raw.Close()
			}
			if (err == nil) != (test.want != "") {
				t.Fatalf("passed through: %v", err)
			}
			w.cloud.mu.Lock()
			defer w.cloud.mu.Unlock()
			if got := strings.Join(w.cloud.pushed, " "); test.want != "" && got != test.want+"@"+worldInstance || test.want == "" && got != "" {
				t.Errorf("pushed for %q", got)
			}
		})
	}
}

// passThrough logs in to a machine end to end, as ec2-user, and runs whoami there.
func (w *world) passThrough(t *testing.T, machine string, key ssh.Signer) (out string, err error) {
	t.Helper()
	raw, err := w.mustConnect(t, as("ec2-user", w.keys["alice"])).Dial("tcp", machine+":22")
	if err != nil {
		return "", err
	}
	conn, chans, reqs, err := ssh.NewClientConn(raw, machine, as("ec2-user", key).config(ssh.FixedHostKey(w.machine.hostKey.PublicKey())))
	if err != nil {
		_ = raw.Close()
		return "", err
	}
	client := ssh.NewClient(conn, chans, reqs)
	defer func() { _ = client.Close() }()
	out, _, _ = run(t, client, "whoami")
	return out, nil
}

// TestPassthroughWithoutInstanceConnect: nothing is pushed to a hybrid node, nor where policy leaves Instance Connect out. Who is let in there is the machine's
// own affair, and the client's key may be one that Instance Connect would not take.
func TestPassthroughWithoutInstanceConnect(t *testing.T) {
	const byCertificate = `@id("through") @mode("passthrough") @login("certificate") permit (principal, action, resource);`
	ecdsaKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	odd, err := ssh.NewSignerFromKey(ecdsaKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		policy, machine string
		knows           bool
	}{
		"a node that knows the key":             {passthroughPolicy, hybridNode, true},
		"a node that does not":                  {passthroughPolicy, hybridNode, false},
		"an instance, without Instance Connect": {byCertificate, worldInstance, true},
		"one that does not know the key":        {byCertificate, worldInstance, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := fallbackWorld(t, test.policy, true)
			if test.knows {
				w.machine.trust("ec2-user", odd.PublicKey())
			}
			out, err := w.passThrough(t, test.machine, odd)
			if test.knows && (err != nil || out != "ec2-user\n") {
				t.Errorf("whoami: %q, %v", out, err)
			}
			if !test.knows && (err == nil || !strings.Contains(err.Error(), "unable to authenticate")) { // the machine's no, which the client words
				t.Errorf("whoami: %q, %v", out, err)
			}
			e := w.audit.waitFor(t, EventUpstreamOpened)
			w.cloud.mu.Lock()
			defer w.cloud.mu.Unlock()
			if e.PushedKey != "" || e.Mode != modePassthrough || len(w.cloud.pushed) != 0 {
				t.Errorf("pushed for %v, audited as %+v", w.cloud.pushed, e)
			}
		})
	}
}

func TestPassthroughToAHybridNodeByInstanceConnectIsRefused(t *testing.T) {
	w := fallbackWorld(t, `@id("through") @mode("passthrough") @login("instance-connect") permit (principal, action, resource);`, true)
	if _, err := w.passThrough(t, hybridNode, w.keys["alice"]); err == nil || !strings.Contains(err.Error(), hybridNode+" cannot be reached in this way (policy wants") {
		t.Errorf("told %v", err)
	}
	e := w.audit.wait(t, "the end of the stay", func(e Event) bool { return e.Event == EventTargetLeft })
	if e.Reason != string(authz.ReasonUnsupportedTarget) || w.cloud.next != 0 {
		t.Errorf("audited as %+v, %d sessions", e, w.cloud.next)
	}
}

// TestPassthroughIsForWholeKeysOnly: the machine would know nothing of what an option takes away, and the gateway sees nothing of what is asked for.
func TestPassthroughIsForWholeKeysOnly(t *testing.T) {
	for option, whole := range map[string]bool{
		"": true, "environment=\"A=b\" ": true, "restrict,pty,port-forwarding,agent-forwarding,x11-forwarding ": true,
		`command="uptime" `: false, "restrict ": false, "no-agent-forwarding ": false, "no-pty ": false, `permitopen="db:5432" `: false, `permitlisten="8080" `: false,
	} {
		w := newWorld(t, worldOptions{policy: passthroughPolicy})
		w.people[0].Keys = []string{option + authorized(w.keys["alice"])}
		w.srv.Reload(w.directory(t), policyOf(t, passthroughPolicy))
		raw, err := w.mustConnect(t, as("ec2-user", w.keys["alice"])).Dial("tcp", worldInstance+":22")
		if err == nil {
			_ = raw.Close()
		}
		if (err == nil) != whole || err != nil && !strings.Contains(err.Error(), "cannot keep the limits") {
			t.Errorf("%spasses: %v", option, err)
		}
		w.cloud.mu.Lock()
		if !whole && len(w.cloud.pushed) > 0 {
			t.Errorf("%sis pushed: %v", option, w.cloud.pushed)
		}
		w.cloud.mu.Unlock()
	}
}
