package gateway

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// shamKey offers a public key whose private half it does not have.
type shamKey struct {
	ssh.Signer
	public ssh.PublicKey
}

func (s shamKey) PublicKey() ssh.PublicKey { return s.public }

func TestStrangersStayOutside(t *testing.T) {
	for name, test := range map[string]struct {
		auth func(w *world) []ssh.AuthMethod
		told string
	}{
		"nothing": {func(*world) []ssh.AuthMethod { return nil }, ""},
		"password": {func(*world) []ssh.AuthMethod {
			return []ssh.AuthMethod{ssh.Password("alice"), ssh.KeyboardInteractive(func(string, string, []string, []bool) ([]string, error) { return nil, nil })}
		}, ""},
		"unknown key": {func(w *world) []ssh.AuthMethod { return []ssh.AuthMethod{ssh.PublicKeys(w.keys["stranger"])} }, "is not known here"},
		"somebody's key without its private half": {func(w *world) []ssh.AuthMethod {
			return []ssh.AuthMethod{ssh.PublicKeys(shamKey{w.keys["stranger"], w.keys["alice"].PublicKey()})}
		}, ""},
		"certificate by nobody": {func(w *world) []ssh.AuthMethod {
			cert := &ssh.Certificate{Key: w.keys["stranger"].PublicKey(), CertType: ssh.UserCert, KeyId: "alice", ValidPrincipals: []string{"alice"}, ValidBefore: ssh.CertTimeInfinity}
			if err := cert.SignCert(rand.Reader, w.keys["stranger"]); err != nil {
				panic(err)
			}
			signer, err := ssh.NewCertSigner(cert, w.keys["stranger"])
			if err != nil {
				panic(err)
			}
			return []ssh.AuthMethod{ssh.PublicKeys(signer)}
		}, "is not known here"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			for _, user := range []string{"alice", "ec2-user@" + worldInstance} {
				l := &login{user: user, auth: test.auth(w)}
				if _, err := w.connect(t, l); err == nil {
					t.Errorf("%s got in", user)
				}
				if told := l.banner.String(); !strings.Contains(told, test.told) || strings.Contains(told, worldInstance) || strings.Contains(told, "web-1") {
					t.Errorf("%s was told %q", user, told)
				}
			}
			w.audit.waitFor(t, EventConnectionRefused)
			if len(w.cloud.resolved) != 0 {
				t.Errorf("a stranger made the gateway ask for %v", w.cloud.resolved)
			}
		})
	}
}

// TestAKeyThatIsOnlyAskedAboutLeavesNoTrace: a client may ask whether a key would do, without proving it.
func TestAKeyThatIsOnlyAskedAboutLeavesNoTrace(t *testing.T) {
	w := newWorld(t, worldOptions{})
	asked := errors.New("asked, and goes away")
	l := &login{user: "ec2-user@" + worldInstance, auth: []ssh.AuthMethod{ssh.PublicKeys(unwilling{w.keys["alice"], asked})}}
	if _, err := w.connect(t, l); !errors.Is(err, asked) {
		t.Fatalf("login ended with %v", err)
	}
	e := w.audit.waitFor(t, EventConnectionRefused)
	if e.Person != "" || e.Fingerprint != "" || len(w.cloud.resolved) != 0 {
		t.Errorf("left %+v and look-ups %v", e, w.cloud.resolved)
	}
}

// unwilling has a key and does not sign.
type unwilling struct {
	ssh.Signer
	err error
}

func (u unwilling) Sign(io.Reader, []byte) (*ssh.Signature, error) { return nil, u.err }

// SignWithAlgorithm keeps the library from signing by another way.
func (u unwilling) SignWithAlgorithm(io.Reader, []byte, string) (*ssh.Signature, error) {
	return nil, u.err
}

// TestTheUserThatCountsIsTheOneOfTheProvenRequest: the query is made for one machine, the proof for another. x/crypto's client cannot do this, so the doorman is asked directly.
func TestTheUserThatCountsIsTheOneOfTheProvenRequest(t *testing.T) {
	w := newWorld(t, worldOptions{})
	c := newConn(w.srv, nil, sourceOf(&net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 1}))
	d := &doorman{ctx: t.Context(), srv: w.srv, source: c.source, admit: c.admit, explain: c.text}
	key := w.keys["alice"].PublicKey()
	if _, err := d.offered(named("ec2-user@web-1"), key); err != nil {
		t.Fatal(err)
	}
	permissions, err := d.proven(named("root@"+worldInstance), key, &ssh.Permissions{}, ssh.KeyAlgoED25519)
	if err != nil {
		t.Fatal(err)
	}
	p, _ := permissions.ExtraData[proofKey{}].(*proof)
	if p.route.osUser != "root" || p.route.named != worldInstance {
		t.Errorf("routed to %s as %s", p.route.named, p.route.osUser)
	}
	if !slices.Equal(w.cloud.resolved, []string{worldInstance}) {
		t.Errorf("looked up %v", w.cloud.resolved)
	}
	c.srv.seats.release(c.seat)
}

// named is a ConnMetadata of which only the user matters.
type named string

func (n named) User() string        { return string(n) }
func (named) SessionID() []byte     { return nil }
func (named) ClientVersion() []byte { return nil }
func (named) ServerVersion() []byte { return nil }
func (named) RemoteAddr() net.Addr  { return nil }
func (named) LocalAddr() net.Addr   { return nil }

func TestDirectShape(t *testing.T) {
	w := newWorld(t, worldOptions{banner: "authorized use \x1b[31monly\n"})
	for _, user := range []string{"ec2-user@" + worldInstance, "ec2-user+" + worldInstance, "ec2-user%web-1"} {
		l := as(user, w.keys["alice"])
		client := w.mustConnect(t, l)
		out, errs, status := run(t, client, "whoami")
		if out != "ec2-user\n" || errs != "" || status != 0 {
			t.Errorf("%s: whoami said %q and %q with status %d", user, out, errs, status)
		}
		if told := l.banner.String(); told != "authorized use \x1b[31monly\n" {
			t.Errorf("%s: the machine's banner came as %q", user, told)
		}
		_ = client.Close()
	}
	e := w.audit.waitFor(t, EventUpstreamOpened)
	if e.Person != "alice" || e.Role != worldRole || e.OSUser != "ec2-user" || e.SessionID == "" || e.HostKey != ssh.FingerprintSHA256(w.machine.hostKey.PublicKey()) || e.HostKeyHow != "first-use" {
		t.Errorf("audited as %+v", e)
	}
	if w.cloud.reasons[0] != "ssm-ssh-gateway alice ref "+e.Ref {
		t.Errorf("reason of the session: %q", w.cloud.reasons[0])
	}
}

func TestDirectShapeRefusesInTheBannerAfterProof(t *testing.T) {
	for user, told := range map[string]string{
		"ec2-user@nowhere":              "no machine nowhere is known",
		"ec2-user@127.0.0.1":            "127.0.0.1 is not a name of a machine",
		"0day user@" + worldInstance:    "is not a user name that Instance Connect accepts",
		"ec2-user@a@b\x1b[2J@localhost": "is not a user name",
	} {
		w := newWorld(t, worldOptions{})
		l := as(user, w.keys["alice"])
		if _, err := w.connect(t, l); err == nil {
			t.Errorf("%q got in", user)
		}
		if got := l.banner.String(); !strings.Contains(got, told) || !strings.Contains(got, "[ref ") {
			t.Errorf("%q was told %q, want %q", user, got, told)
		}
	}
}

func TestRevokedKeyIsToldOnlyAfterProof(t *testing.T) {
	w := newWorld(t, worldOptions{})
	revoked, err := authz.NewDirectory(authz.DirectoryConfig{People: w.people, RevokedKeys: [][]byte{[]byte(authorized(w.keys["alice"]) + "\n")}})
	if err != nil {
		t.Fatal(err)
	}
	w.srv.Reload(revoked, authz.BuiltinPolicy())
	unproven := &login{user: "x", auth: []ssh.AuthMethod{ssh.PublicKeys(unwilling{w.keys["alice"], errors.New("no")})}}
	if _, err := w.connect(t, unproven); err == nil || unproven.banner.String() != "" {
		t.Errorf("without proof: %v, told %q", err, unproven.banner.String())
	}
	proven := as("x", w.keys["alice"])
	if _, err := w.connect(t, proven); err == nil || !strings.Contains(proven.banner.String(), "has been revoked") {
		t.Errorf("with proof: %v, told %q", err, proven.banner.String())
	}
}

// TestGraceCoversEverythingBeforeLogin: no version line, a version line byte by byte, no key exchange, no authentication.
func TestGraceCoversEverythingBeforeLogin(t *testing.T) {
	w := newWorld(t, worldOptions{limits: Limits{LoginGrace: 50 * time.Millisecond}})
	for name, say := range map[string]string{"silence": "", "half a version": "SSH-2.0-slo", "version only": "SSH-2.0-slow\r\n"} {
		raw, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.WriteString(raw, say)
		testkit.Within(t, name, func() { _, _ = io.Copy(io.Discard, raw) }) // until the gateway closes
		_ = raw.Close()
	}
	w.audit.wait(t, "out of time", func(e Event) bool {
		return e.Event == EventConnectionRefused && e.Reason == string(authz.ReasonTimeout)
	})
}

func TestGraceCoversTheInnerLogin(t *testing.T) {
	w := newWorld(t, worldOptions{})
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	w.srv.cfg.Limits.LoginGrace = 100 * time.Millisecond // now that the outer login has taken the time it needs
	raw, err := outer.Dial("tcp", worldInstance+":22")
	if err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "the end of a silent inner login", func() { _, _ = io.Copy(io.Discard, raw) })
	w.audit.wait(t, "out of time", func(e Event) bool { return e.Event == EventTargetRefused && e.Reason == string(authz.ReasonTimeout) })
	_ = raw.Close()
}

func TestVersionStringTellsNoVersion(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := w.mustConnect(t, as("x", w.keys["alice"]))
	if got := client.ServerVersion(); !bytes.Equal(got, []byte(serverVersion)) || bytes.ContainsAny(got[len("SSH-2.0-"):], "0123456789") {
		t.Errorf("version %q", got)
	}
}

func TestWeakAlgorithmsAreNotAccepted(t *testing.T) {
	w := newWorld(t, worldOptions{})
	insecure := ssh.InsecureAlgorithms()
	for name, config := range map[string]ssh.Config{
		"key exchange": {KeyExchanges: insecure.KeyExchanges}, "cipher": {Ciphers: insecure.Ciphers}, "mac": {Ciphers: []string{ssh.CipherAES128CTR}, MACs: insecure.MACs},
	} {
		raw, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		client := as("x", w.keys["alice"]).config(ssh.InsecureIgnoreHostKey())
		client.Config = config
		var negotiation *ssh.AlgorithmNegotiationError
		if _, _, _, err := ssh.NewClientConn(raw, w.addr, client); !errors.As(err, &negotiation) {
			t.Errorf("%s: %v", name, err)
		}
		_ = raw.Close()
	}
}

// TestCiphersAreTheOnesConfigured logs in by clients that prefer another cipher than the gateway is left with, in both handshakes of a jump, and one that has no
// other.
func TestCiphersAreTheOnesConfigured(t *testing.T) {
	w := newWorld(t, worldOptions{cfg: func(c *Config) { c.Ciphers = []string{ssh.CipherAES256GCM} }})
	alice := as("ec2-user", w.keys["alice"])
	alice.ciphers = []string{ssh.CipherChaCha20Poly1305, ssh.CipherAES256GCM}
	outer := w.mustConnect(t, alice)
	inner, err := w.jump(t, outer, worldInstance+":22", alice)
	if err != nil {
		t.Fatal(err)
	}
	for name, client := range map[string]*ssh.Client{"outer": outer, "inner": inner} {
		connection, ok := client.Conn.(ssh.AlgorithmsConnMetadata)
		if !ok {
			t.Fatal("the library does not tell the algorithms")
		}
		if got := connection.Algorithms(); got.Read.Cipher != ssh.CipherAES256GCM || got.Write.Cipher != ssh.CipherAES256GCM {
			t.Errorf("%s: %s, %s", name, got.Read.Cipher, got.Write.Cipher)
		}
	}
	alice.ciphers = alice.ciphers[:1]
	var negotiation *ssh.AlgorithmNegotiationError
	if _, err := w.connect(t, alice); !errors.As(err, &negotiation) {
		t.Errorf("with ChaCha20 alone: %v", err)
	}
}

func TestBuiltinCommands(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := w.mustConnect(t, as("x", w.keys["alice"]))
	for command, test := range map[string]struct {
		want   string
		status int
	}{
		"whoami": {"alice\n", 0}, "ls": {worldInstance, 0}, "help": {"ssh -J GATEWAY", 0}, "rm -rf /": {"unknown command rm -rf /", 127},
	} {
		out, errs, status := run(t, client, command)
		if !strings.Contains(out+errs, test.want) || status != test.status {
			t.Errorf("%s: %q %q, status %d", command, out, errs, status)
		}
	}
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if err := session.RequestSubsystem("sftp"); err == nil {
		t.Error("the gateway itself offers files")
	}
	_ = session.Close()
}

func TestListShowsOnlyWhatPolicyAllows(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `@id("nothing-here") permit (principal == User::"bob", action, resource);`})
	if out, _, _ := run(t, w.mustConnect(t, as("x", w.keys["alice"])), "ls"); strings.Contains(out, "i-") {
		t.Errorf("alice sees %q", out)
	}
	if out, _, _ := run(t, w.mustConnect(t, as("x", w.keys["bob"])), "ls"); !strings.Contains(out, worldInstance) {
		t.Errorf("bob sees %q", out)
	}
}

// TestTheHintIsGivenToStrangersNotToOwnersOfManyKeys: an agent offers its keys in its own order, and the good one may be the second.
func TestTheHintIsGivenToStrangersNotToOwnersOfManyKeys(t *testing.T) {
	w := newWorld(t, worldOptions{})
	for i, want := range []int{1, 0} {
		l := as("x", newKeyOnce(t, w, "old"), w.keys["alice"])
		w.mustConnect(t, l)
		if got := strings.Count(l.banner.String(), "is not known here"); got != want {
			t.Errorf("login %d: %d hints, want %d", i, got, want)
		}
	}
	stranger := as("x", w.keys["stranger"], newKey(t), newKey(t))
	if _, err := w.connect(t, stranger); err == nil || strings.Count(stranger.banner.String(), "is not known here") != 1 {
		t.Errorf("a stranger with three keys: %v, told %q", err, stranger.banner.String())
	}
}

// newKeyOnce gives the key of that name, made at the first call.
func newKeyOnce(t *testing.T, w *world, name string) ssh.Signer {
	t.Helper()
	if w.keys[name] == nil {
		w.keys[name] = newKey(t)
	}
	return w.keys[name]
}

func TestOnlyKeysThatInstanceConnectTakesArePushed(t *testing.T) {
	_, ecdsaKey := newECDSA(t)
	ed := newKey(t)
	cert := &ssh.Certificate{Key: ed.PublicKey(), CertType: ssh.UserCert}
	if err := cert.SignCert(rand.Reader, newKey(t)); err != nil {
		t.Fatal(err)
	}
	if got, err := pushable(cert); err != nil || !bytes.Equal(got.Marshal(), ed.PublicKey().Marshal()) {
		t.Errorf("of a certificate: %v, %v", got, err)
	}
	for _, key := range []ssh.PublicKey{nil, ecdsaKey} {
		if _, err := pushable(key); reasonOf(err) != authz.ReasonUnsupportedTarget {
			t.Errorf("%v: %v", key, err)
		}
	}
}

func newECDSA(t *testing.T) (*ecdsa.PrivateKey, ssh.PublicKey) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	return private, public
}

func TestTheGatewayShowsACertificateForItsOwnNames(t *testing.T) {
	w := newWorld(t, worldOptions{cfg: func(c *Config) { c.Names = []string{"gw.example"} }})
	checker := &ssh.CertChecker{IsHostAuthority: func(key ssh.PublicKey, _ string) bool {
		return bytes.Equal(key.Marshal(), w.hostCA.PublicKey().Marshal())
	}}
	for name, algorithm := range map[string]string{"certificate": ssh.CertAlgoED25519v01, "bare key": ssh.KeyAlgoED25519} {
		raw, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		check := ssh.FixedHostKey(w.srv.cfg.HostKeys[0].PublicKey())
		if algorithm == ssh.CertAlgoED25519v01 {
			check = checker.CheckHostKey
		}
		config := as("x", w.keys["alice"]).config(check)
		config.HostKeyAlgorithms = []string{algorithm}
		conn, _, _, err := ssh.NewClientConn(raw, "gw.example:22", config)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			_ = raw.Close()
			continue
		}
		_ = conn.Close()
	}
}
