package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// hybridNode is a machine that Instance Connect does not know.
const hybridNode = "mi-0123456789abcdef0"

// everythingPolicy permits all there is, the fallbacks too.
const everythingPolicy = `@id("all") permit (principal, action, resource);`

// certified is what an sshd with TrustedUserCAKeys says.
func certified(conn ssh.ConnMetadata, cert *ssh.Certificate, authority ssh.PublicKey) (*ssh.Permissions, error) {
	checker := &ssh.CertChecker{IsUserAuthority: func(key ssh.PublicKey) bool {
		return authority != nil && bytes.Equal(key.Marshal(), authority.Marshal())
	}}
	return checker.Authenticate(conn, cert)
}

// fallbackWorld is a world with a user CA, which the machine trusts or not, and agents allowed; the machine is known under a hybrid node's id, too.
func fallbackWorld(t *testing.T, policy string, trusts bool) *world {
	t.Helper()
	signer := newKey(t)
	ca, err := NewUserCA(signer)
	if err != nil {
		t.Fatal(err)
	}
	w := newWorld(t, worldOptions{policy: policy, cfg: func(c *Config) { c.UserCA, c.ForwardedAgent = ca, true }})
	if trusts {
		w.machine.trustCA = signer.PublicKey()
	}
	w.cloud.instances[hybridNode] = &authz.Instance{ID: hybridNode, Partition: "aws", Account: worldAccount, Region: "eu-west-1"}
	return w
}

// withoutConnect makes the machine one without Instance Connect: pushes reach nobody.
func (w *world) withoutConnect() {
	addr := w.machine.addr
	w.cloud.machine = &machine{addr: addr, trusted: map[string][]string{}}
}

// toldOf is why no session was opened.
func toldOf(t *testing.T, client *ssh.Client) string {
	t.Helper()
	session, err := client.NewSession()
	var refused *ssh.OpenChannelError
	if err == nil {
		_ = session.Close()
		t.Fatal("a session was opened")
	}
	if !errors.As(err, &refused) {
		t.Fatalf("the session was refused with %v", err)
	}
	return refused.Message
}

func TestAHybridNodeIsReachedByCertificate(t *testing.T) {
	w := fallbackWorld(t, everythingPolicy, true)
	client := w.mustConnect(t, as("ec2-user@"+hybridNode, w.keys["alice"]))
	if out, _, status := run(t, client, "whoami"); out != "ec2-user\n" || status != 0 {
		t.Errorf("whoami: %q, status %d", out, status)
	}
	e := w.audit.waitFor(t, EventUpstreamOpened)
	w.machine.mu.Lock()
	defer w.machine.mu.Unlock()
	cert := w.machine.shown[0]
	if e.LoginWay != "certificate" || e.IssuedSerial != cert.Serial || e.LoginKey != ssh.FingerprintSHA256(cert.Key) || e.PushedKey != "" || len(w.cloud.pushed) != 0 {
		t.Errorf("audited as %+v, pushed %v", e, w.cloud.pushed)
	}
	if !slices.Equal(cert.ValidPrincipals, []string{"ec2-user"}) || cert.KeyId != fmt.Sprintf("alice session %s ref %s", e.SessionID, e.Ref) {
		t.Errorf("certificate for %q with id %q", cert.ValidPrincipals, cert.KeyId)
	}
	if life := time.Duration(cert.ValidBefore-cert.ValidAfter) * time.Second; life > 2*time.Minute {
		t.Errorf("the certificate lives %s", life)
	}
	for _, extension := range []string{"permit-pty", "permit-port-forwarding", "permit-agent-forwarding", "permit-X11-forwarding"} {
		if _, granted := cert.Extensions[extension]; !granted {
			t.Errorf("%s is not granted", extension)
		}
	}
}

// TestTheWaysFollowEachOther in one handshake, over one Session Manager session: Instance Connect, certificate, agent.
func TestTheWaysFollowEachOther(t *testing.T) {
	for _, c := range []struct {
		name, way   string
		trusts      bool
		push        error
		offered     int
		byAgentOnly bool
	}{
		{"certificate after a pushed key that never arrived", "certificate", true, nil, 2, false},
		{"certificate after Instance Connect cannot", "certificate", true, &authz.Refusal{Reason: authz.ReasonUnsupportedTarget, Detail: "this type of instance"}, 1, false},
		{"agent after both", "agent", false, nil, 3, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := fallbackWorld(t, everythingPolicy, c.trusts)
			w.withoutConnect()
			w.cloud.refuseCall("push", c.push)
			if c.byAgentOnly {
				w.machine.trust("ec2-user", w.keys["alice"].PublicKey())
			}
			client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
			forwardAgent(t, client, w.keys["stranger"], w.keys["alice"])
			if out := runWithAgent(t, client, "whoami"); out != "ec2-user\n" {
				t.Errorf("whoami: %q", out)
			}
			if e := w.audit.waitFor(t, EventUpstreamOpened); e.LoginWay != c.way {
				t.Errorf("logged in by %q", e.LoginWay)
			}
			w.cloud.mu.Lock()
			defer w.cloud.mu.Unlock()
			w.machine.mu.Lock()
			defer w.machine.mu.Unlock()
			if w.cloud.next != 1 || w.machine.offered < c.offered {
				t.Errorf("%d sessions, %d offers", w.cloud.next, w.machine.offered)
			}
		})
	}
}

// forwardAgent makes the client serve an agent with some keys; it counts how often that was opened.
func forwardAgent(t *testing.T, client *ssh.Client, keys ...ssh.Signer) *atomic.Int64 {
	t.Helper()
	opened := &atomic.Int64{}
	channels := client.HandleChannelOpen("auth-agent@openssh.com")
	go func() {
		for open := range channels {
			opened.Add(1)
			stream, reqs, err := open.Accept()
			if err != nil {
				return
			}
			go ssh.DiscardRequests(reqs)
			go func() { _ = agent.ServeAgent(heldKeys(keys), stream) }()
		}
	}()
	return opened
}

// heldKeys is an agent that signs with keys whose private half it does not show.
type heldKeys []ssh.Signer

func (h heldKeys) List() ([]*agent.Key, error) {
	var list []*agent.Key
	for _, key := range h {
		list = append(list, &agent.Key{Format: key.PublicKey().Type(), Blob: key.PublicKey().Marshal()})
	}
	return list, nil
}

func (h heldKeys) Sign(key ssh.PublicKey, data []byte) (*ssh.Signature, error) {
	for _, own := range h {
		if bytes.Equal(own.PublicKey().Marshal(), key.Marshal()) {
			return own.Sign(nil, data)
		}
	}
	return nil, errors.New("no such key")
}

func (heldKeys) Add(agent.AddedKey) error         { return errors.New("no") }
func (heldKeys) Remove(ssh.PublicKey) error       { return errors.New("no") }
func (heldKeys) RemoveAll() error                 { return errors.New("no") }
func (heldKeys) Lock([]byte) error                { return errors.New("no") }
func (heldKeys) Unlock([]byte) error              { return errors.New("no") }
func (h heldKeys) Signers() ([]ssh.Signer, error) { return h, nil }

// runWithAgent runs a command in a session that forwards the agent.
func runWithAgent(t *testing.T, client *ssh.Client, command string) string {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close() }()
	if err := agent.RequestAgentForwarding(session); err != nil {
		// x/crypto wants an answer, and the machine of these tests says no; the request has been made
		t.Log(err)
	}
	var out []byte
	testkit.Within(t, command, func() { out, err = session.Output(command) })
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

// TestDoorsOfTheFallbacks: outside of the policy, and around IAM's no, nobody gets in.
func TestDoorsOfTheFallbacks(t *testing.T) {
	denied := &authz.Refusal{Reason: authz.ReasonAccessDenied, Action: "ec2-instance-connect:SendSSHPublicKey", Role: worldRole}
	const noRoot = `@id("all") permit (principal, action, resource);
@id("certificates") forbid (principal, action in Action::"fallback", resource) unless { context.osUser == "ec2-user" };`
	for _, c := range []struct {
		name, policy, login string
		push                error
		told                string
	}{
		{"without a policy", "", "ec2-user@" + hybridNode, nil, "EC2 Instance Connect knows no hybrid nodes"},
		{"another OS user than policy permits", noRoot, "root@" + hybridNode, nil, "policy does not permit certificate-login; policy does not permit agent-login"},
		{"IAM does not let the key in", everythingPolicy, "root@" + worldInstance, denied, "AWS does not allow ec2-instance-connect:SendSSHPublicKey"},
		{"policy wants Instance Connect", `@id("a") @login("instance-connect") permit (principal, action, resource);`, "root@" + hybridNode, nil, "knows no hybrid nodes"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := fallbackWorld(t, c.policy, true)
			w.machine.trust("root", w.keys["alice"].PublicKey())
			w.withoutConnect()
			w.cloud.refuseCall("push", c.push)
			client := w.mustConnect(t, as(c.login, w.keys["alice"]))
			opened := forwardAgent(t, client, w.keys["alice"])
			if told := toldOf(t, client); !strings.Contains(told, c.told) {
				t.Errorf("told %q, want %q", told, c.told)
			}
			w.machine.mu.Lock()
			defer w.machine.mu.Unlock()
			if w.machine.offered != 0 || opened.Load() != 0 {
				t.Errorf("%d keys were offered to the machine, the agent was opened %d times", w.machine.offered, opened.Load())
			}
		})
	}
}

// TestThePolicyNamesTheWay: with @login Instance Connect is not even tried.
func TestThePolicyNamesTheWay(t *testing.T) {
	w := fallbackWorld(t, `@id("a") @login("certificate") permit (principal, action, resource);`, true)
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	if out, _, _ := run(t, client, "whoami"); out != "ec2-user\n" || len(w.cloud.pushed) != 0 {
		t.Errorf("whoami: %q, pushed %v", out, w.cloud.pushed)
	}
}

// TestAMachineThatKnowsNothing is told of with every way that was tried.
func TestAMachineThatKnowsNothing(t *testing.T) {
	w := fallbackWorld(t, everythingPolicy, false)
	w.withoutConnect()
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	opened := forwardAgent(t, client, w.keys["alice"])
	session, err := client.NewSession() // accepted, to hear whether an agent is forwarded
	if err != nil {
		t.Fatal(err)
	}
	var told testkit.Buffer
	session.Stderr = &told
	testkit.Within(t, "the refusal", func() { err = session.Run("whoami") })
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != bridge.RefusedStatus || opened.Load() != 0 {
		t.Errorf("ended with %v; the agent was opened %d times", err, opened.Load())
	}
	const want = "the machine did not let user ec2-user in (tried a key pushed by EC2 Instance Connect, a certificate of the gateway's user CA; no agent was forwarded: ssh -A)"
	if !strings.Contains(told.String(), want) {
		t.Errorf("told %q, want %q", told.String(), want)
	}
	w.audit.wait(t, "why", func(e Event) bool {
		return e.Event == EventUpstreamFailed && e.Reason == string(authz.ReasonKeyRefused)
	})
}

// TestAFurtherLaneTakesTheWayThatLedIn: it asks nobody for anything that has failed before.
func TestAFurtherLaneTakesTheWayThatLedIn(t *testing.T) {
	w := fallbackWorld(t, everythingPolicy, true)
	w.withoutConnect()
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	holdCat(t, client, true)
	w.machine.mu.Lock()
	before := w.machine.offered
	w.machine.mu.Unlock()
	holdCat(t, client, false)
	w.machine.mu.Lock()
	defer w.machine.mu.Unlock()
	if offers := w.machine.offered - before; offers != 1 || len(w.machine.shown) != 2 || w.machine.shown[0].Serial == w.machine.shown[1].Serial {
		t.Errorf("%d offers for the second lane; %d certificates in all", offers, len(w.machine.shown))
	}
}

func TestACertificateOutlivesNothing(t *testing.T) {
	signer := newKey(t)
	ca, err := NewUserCA(signer)
	if err != nil {
		t.Fatal(err)
	}
	made := time.Unix(1_800_000_000, 0)
	none := authz.ChannelGrants{}
	_, cert, err := ca.certify(newKey(t), "ec2-user", "id", none, made)
	if err != nil {
		t.Fatal(err)
	}
	if _, granted := cert.Extensions["permit-pty"]; granted || len(cert.Extensions) != 1 {
		t.Errorf("a person without grants gets %v", cert.Extensions)
	}
	for _, c := range []struct {
		after time.Duration
		valid bool
	}{{-31 * time.Second, false}, {-29 * time.Second, true}, {0, true}, {89 * time.Second, true}, {90 * time.Second, false}, {time.Hour, false}} {
		checker := &ssh.CertChecker{
			IsUserAuthority: func(key ssh.PublicKey) bool { return bytes.Equal(key.Marshal(), signer.PublicKey().Marshal()) },
			Clock:           func() time.Time { return made.Add(c.after) },
		}
		if err := checker.CheckCert("ec2-user", cert); (err == nil) != c.valid {
			t.Errorf("%s after its making: %v", c.after, err)
		}
		if err := checker.CheckCert("root", cert); err == nil {
			t.Errorf("%s after its making it is good for root", c.after)
		}
	}
	if _, _, err := ca.certify(newKey(t), "", "id", none, made); err == nil {
		t.Error("a certificate for everybody was made")
	}
}

func TestTheUserCAPrintsAsItsFingerprint(t *testing.T) {
	signer := newKey(t)
	ca, err := NewUserCA(signer)
	if err != nil {
		t.Fatal(err)
	}
	want := "user CA " + ssh.FingerprintSHA256(signer.PublicKey())
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		if got := fmt.Sprintf(verb, ca); got != want {
			t.Errorf("%s: %s", verb, got)
		}
	}
	if got := ca.LogValue().String(); got != want {
		t.Errorf("logged as %s", got)
	}
	if line := ca.TrustLine(); !strings.HasPrefix(line, authorized(signer)) {
		t.Errorf("trusted by %q", line)
	}
	cert := &ssh.Certificate{Key: signer.PublicKey(), CertType: ssh.UserCert, ValidBefore: ssh.CertTimeInfinity}
	if err := cert.SignCert(zeroes{}, signer); err != nil {
		t.Fatal(err)
	}
	chained, err := ssh.NewCertSigner(cert, signer)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewUserCA(chained); err == nil {
		t.Error("a certificate is accepted as an authority")
	}
	if _, err := NewUserCA(nil); err == nil {
		t.Error("nothing is accepted as an authority")
	}
}

// zeroes is no randomness, where none matters.
type zeroes struct{}

func (zeroes) Read(p []byte) (int, error) { clear(p); return len(p), nil }
