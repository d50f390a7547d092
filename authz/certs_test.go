package authz

import (
	"crypto/rand"
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

var (
	testNow    = time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	testSource = netip.MustParseAddrPort("192.0.2.7:50000")
)

// certificate makes a user certificate for principal alice, valid for an hour around testNow; change may alter it before it is signed.
func certificate(t testing.TB, key ssh.PublicKey, ca ssh.Signer, change func(*ssh.Certificate)) *ssh.Certificate {
	t.Helper()
	cert := &ssh.Certificate{
		Key: key, CertType: ssh.UserCert, KeyId: "alice@example", Serial: 7, ValidPrincipals: []string{"alice"},
		ValidAfter: uint64(testNow.Add(-30 * time.Minute).Unix()), ValidBefore: uint64(testNow.Add(30 * time.Minute).Unix()),
		Permissions: ssh.Permissions{CriticalOptions: map[string]string{}, Extensions: map[string]string{"permit-pty": ""}},
	}
	if change != nil {
		change(cert)
	}
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return reparse(t, cert)
}

// reparse gives the certificate as it comes off the wire.
func reparse(t testing.TB, cert *ssh.Certificate) *ssh.Certificate {
	t.Helper()
	key, err := ssh.ParsePublicKey(cert.Marshal())
	if err != nil {
		t.Fatal(err)
	}
	return key.(*ssh.Certificate)
}

func directory(t testing.TB, cfg DirectoryConfig) *Directory {
	t.Helper()
	d, err := NewDirectory(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func reasonOf(err error) Reason {
	var refusal *Refusal
	if errors.As(err, &refusal) {
		return refusal.Reason
	}
	return ""
}

func alice() Person { return Person{Name: "alice", Principals: []string{"alice", "alice-admin"}} }
func bob() Person   { return Person{Name: "bob", Principals: []string{"bob"}} }

func TestCertificateIdentity(t *testing.T) {
	ca, key := signer(t, "ecdsa"), signer(t, "ed25519")
	d := directory(t, DirectoryConfig{People: []Person{alice(), bob()}, UserCAs: []string{keyText(ca.PublicKey())}})
	cert := certificate(t, key.PublicKey(), ca, func(c *ssh.Certificate) {
		c.Extensions = map[string]string{"permit-pty": "", "permit-agent-forwarding": "", "permit-something-new": "x"}
		c.CriticalOptions = map[string]string{"force-command": "uptime", "source-address": "198.51.100.0/24,192.0.2.7"}
	})
	if !d.Candidate(cert, testNow) {
		t.Fatal("not even a candidate")
	}
	id, err := d.Identify(cert, testSource, testNow)
	if err != nil {
		t.Fatal(err)
	}
	want := ChannelGrants{PTY: true, AgentForwarding: true, ForceCommand: "uptime"}
	if id.Person != "alice" || id.Method != MethodCertificate || id.KeyType != ssh.KeyAlgoED25519 || !reflect.DeepEqual(id.Grants, want) ||
		id.Fingerprint != ssh.FingerprintSHA256(key.PublicKey()) || id.Source != testSource {
		t.Errorf("%+v", id)
	}
	wantCert := &Certificate{
		KeyID: "alice@example", Serial: 7, CA: ssh.FingerprintSHA256(ca.PublicKey()), Principals: []string{"alice"}, ValidBefore: testNow.Add(30 * time.Minute),
	}
	if !reflect.DeepEqual(id.Certificate, wantCert) {
		t.Errorf("%+v, want %+v", id.Certificate, wantCert)
	}
	if err := d.StillValid(id, testNow.Add(29*time.Minute)); err != nil {
		t.Errorf("within its time: %v", err)
	}
	if err := d.StillValid(id, testNow.Add(30*time.Minute)); reasonOf(err) != ReasonCertificateExpired {
		t.Errorf("after its time: %v", err)
	}
}

func TestCertificateRefusals(t *testing.T) {
	ca, key := signer(t, "ed25519"), signer(t, "ed25519").PublicKey()
	d := directory(t, DirectoryConfig{
		People: []Person{alice(), bob()}, UserCAs: []string{keyText(ca.PublicKey())}, MaxCertificateValidity: 2 * time.Hour,
	})
	change := func(f func(*ssh.Certificate)) *ssh.Certificate { return certificate(t, key, ca, f) }
	for _, c := range []struct {
		name string
		cert *ssh.Certificate
		want Reason
	}{
		{"another CA", certificate(t, key, signer(t, "ed25519"), nil), ReasonCertificateInvalid},
		{"host certificate", change(func(c *ssh.Certificate) { c.CertType = ssh.HostCert }), ReasonCertificateInvalid},
		{"no principals", change(func(c *ssh.Certificate) { c.ValidPrincipals = nil }), ReasonWrongPrincipal},
		{"unknown principal", change(func(c *ssh.Certificate) { c.ValidPrincipals = []string{"mallory"} }), ReasonWrongPrincipal},
		{"no wildcards", change(func(c *ssh.Certificate) { c.ValidPrincipals = []string{"*", "ali*"} }), ReasonWrongPrincipal},
		{"two people", change(func(c *ssh.Certificate) { c.ValidPrincipals = []string{"alice", "bob"} }), ReasonWrongPrincipal},
		{"expired", change(func(c *ssh.Certificate) { c.ValidBefore = uint64(testNow.Unix()) }), ReasonCertificateExpired},
		{"not yet valid", change(func(c *ssh.Certificate) { c.ValidAfter = uint64(testNow.Unix()) + 1 }), ReasonCertificateExpired},
		{"valid for too long", change(func(c *ssh.Certificate) { c.ValidBefore = c.ValidAfter + 7201 }), ReasonCertificateExpired},
		{"forever", change(func(c *ssh.Certificate) { c.ValidBefore = ssh.CertTimeInfinity }), ReasonCertificateExpired},
		{"never valid", change(func(c *ssh.Certificate) { c.ValidBefore = c.ValidAfter - 1 }), ReasonCertificateInvalid},
		{"verify-required", change(func(c *ssh.Certificate) { c.CriticalOptions["verify-required"] = "" }), ReasonCertificateInvalid},
		{"unknown critical option", change(func(c *ssh.Certificate) { c.CriticalOptions["x@y"] = "" }), ReasonCertificateInvalid},
		{"empty force-command", change(func(c *ssh.Certificate) { c.CriticalOptions["force-command"] = "" }), ReasonCertificateInvalid},
		{"elsewhere", change(func(c *ssh.Certificate) { c.CriticalOptions["source-address"] = "198.51.100.0/24" }), ReasonSourceAddress},
		{"empty source-address", change(func(c *ssh.Certificate) { c.CriticalOptions["source-address"] = "" }), ReasonCertificateInvalid},
		{"malformed source-address", change(func(c *ssh.Certificate) { c.CriticalOptions["source-address"] = "192.0.2.7,x" }), ReasonCertificateInvalid},
		{"weak key", certificate(t, signer(t, "rsa1024").PublicKey(), ca, nil), ReasonCertificateInvalid},
		{"FIDO key of a web site", certificate(t, skKey(t, "https://x"), ca, nil), ReasonCertificateInvalid},
	} {
		id, err := d.Identify(c.cert, testSource, testNow)
		if id != nil || reasonOf(err) != c.want {
			t.Errorf("%s: %v, %v; want %s", c.name, id, err, c.want)
		}
	}
}

// A changed certificate, field by field, is nobody's: the signature is judged before anything in it is.
func TestCertificateForgery(t *testing.T) {
	ca, key := signer(t, "ed25519"), signer(t, "ed25519").PublicKey()
	d := directory(t, DirectoryConfig{People: []Person{alice(), bob()}, UserCAs: []string{keyText(ca.PublicKey())}})
	for name, forge := range map[string]func(*ssh.Certificate){
		"key":        func(c *ssh.Certificate) { c.Key = signer(t, "ed25519").PublicKey() },
		"principal":  func(c *ssh.Certificate) { c.ValidPrincipals = []string{"bob"} },
		"validity":   func(c *ssh.Certificate) { c.ValidBefore += 3600 },
		"serial":     func(c *ssh.Certificate) { c.Serial++ },
		"extensions": func(c *ssh.Certificate) { c.Extensions["permit-port-forwarding"] = "" },
		"signature":  func(c *ssh.Certificate) { c.Signature.Blob[3] ^= 1 },
		"algorithm":  func(c *ssh.Certificate) { c.Signature.Format = ssh.KeyAlgoRSA },
	} {
		cert := certificate(t, key, ca, nil)
		forge(cert)
		id, err := d.Identify(cert, testSource, testNow)
		if id != nil || reasonOf(err) != ReasonCertificateInvalid {
			t.Errorf("%s forged: %v, %v", name, id, err)
		}
	}
}

// An RSA authority that signs with SHA-1 is refused even though the signature is right.
func TestCertificateSHA1Signature(t *testing.T) {
	ca := signer(t, "rsa2048")
	d := directory(t, DirectoryConfig{People: []Person{alice()}, UserCAs: []string{keyText(ca.PublicKey())}})
	for algorithm, want := range map[string]Reason{ssh.KeyAlgoRSASHA512: "", ssh.KeyAlgoRSASHA256: "", ssh.KeyAlgoRSA: ReasonCertificateInvalid} {
		limited, err := ssh.NewSignerWithAlgorithms(ca.(ssh.AlgorithmSigner), []string{algorithm})
		if err != nil {
			t.Fatal(err)
		}
		cert := certificate(t, signer(t, "ed25519").PublicKey(), limited, nil)
		if cert.Signature.Format != algorithm {
			t.Fatalf("signed with %s, not %s", cert.Signature.Format, algorithm)
		}
		if _, err := d.Identify(cert, testSource, testNow); reasonOf(err) != want {
			t.Errorf("%s: %v, want %q", algorithm, err, want)
		}
	}
}

func TestNarrowedAuthorities(t *testing.T) {
	ca := signer(t, "ed25519")
	text := keyText(ca.PublicKey())
	cert := func(principals ...string) *ssh.Certificate {
		return certificate(t, signer(t, "ed25519").PublicKey(), ca, func(c *ssh.Certificate) {
			c.ValidPrincipals = principals
			c.Extensions = map[string]string{"permit-pty": "", "permit-port-forwarding": ""}
		})
	}
	carol := func(keys ...string) Person { return Person{Name: "carol", Keys: keys} }
	for _, c := range []struct {
		name   string
		cfg    DirectoryConfig
		cert   *ssh.Certificate
		person string
		want   Reason
	}{
		{"principals= leaves one", DirectoryConfig{People: []Person{alice(), bob()}, UserCAs: []string{`principals="bob" ` + text}}, cert("alice", "bob"), "bob", ""},
		{"principals= leaves none", DirectoryConfig{People: []Person{alice()}, UserCAs: []string{`principals="bob" ` + text}}, cert("alice"), "", ReasonWrongPrincipal},
		{"from= elsewhere", DirectoryConfig{People: []Person{alice()}, UserCAs: []string{`from="10.0.0.0/8" ` + text}}, cert("alice"), "", ReasonSourceAddress},
		{"expired", DirectoryConfig{People: []Person{alice()}, UserCAs: []string{`expiry-time="20260101Z" ` + text}}, cert("alice"), "", ReasonCertificateExpired},
		{"own CA, own list", DirectoryConfig{People: []Person{carol(`cert-authority,principals="ops" ` + text)}}, cert("ops"), "carol", ""},
		{"own CA, other principal", DirectoryConfig{People: []Person{carol(`cert-authority,principals="ops" ` + text)}}, cert("carol"), "", ReasonWrongPrincipal},
		{
			"own CA makes nobody else",
			DirectoryConfig{People: []Person{bob(), {Name: "carol", Principals: []string{"carol"}, Keys: []string{"cert-authority " + text}}}},
			cert("bob"), "", ReasonWrongPrincipal,
		},
		{
			"own CA, person's principal",
			DirectoryConfig{People: []Person{{Name: "carol", Principals: []string{"carol"}, Keys: []string{"cert-authority " + text}}}},
			cert("carol"), "carol", "",
		},
		{
			"one CA, two lines, two people",
			DirectoryConfig{People: []Person{alice(), carol(`cert-authority,principals="alice" ` + text)}, UserCAs: []string{text}},
			cert("alice"), "", ReasonWrongPrincipal,
		},
		{
			"one CA, two lines, one fits",
			DirectoryConfig{People: []Person{alice()}, UserCAs: []string{`from="10.0.0.0/8" ` + text + "\n" + `from="192.0.2.0/24" ` + text}},
			cert("alice"), "alice", "",
		},
	} {
		id, err := directory(t, c.cfg).Identify(c.cert, testSource, testNow)
		if reasonOf(err) != c.want || c.want == "" && (err != nil || id.Person != c.person) {
			t.Errorf("%s: %+v, %v; want %q %q", c.name, id, err, c.person, c.want)
		}
	}
}

// Options of the authority's line and of the certificate combine to the stricter.
func TestCertificateAndLineOptions(t *testing.T) {
	ca := signer(t, "ed25519")
	identify := func(options string, change func(*ssh.Certificate)) (*Identity, error) {
		d := directory(t, DirectoryConfig{People: []Person{alice()}, UserCAs: []string{options + keyText(ca.PublicKey())}})
		return d.Identify(certificate(t, signer(t, "ed25519").PublicKey(), ca, change), testSource, testNow)
	}
	id, err := identify(`no-pty,permitopen="db:5432" `, func(c *ssh.Certificate) { c.Extensions["permit-port-forwarding"] = "" })
	if want := (ChannelGrants{PortForwarding: true, PermitOpen: []string{"db:5432"}}); err != nil || !reflect.DeepEqual(id.Grants, want) {
		t.Errorf("%+v, %v", id, err)
	}
	force := func(command string) func(*ssh.Certificate) {
		return func(c *ssh.Certificate) { c.CriticalOptions["force-command"] = command }
	}
	if id, err := identify(`command="uptime" `, force("uptime")); err != nil || id.Grants.ForceCommand != "uptime" {
		t.Errorf("the same command twice: %+v, %v", id, err)
	}
	if _, err := identify(`command="uptime" `, force("id")); reasonOf(err) != ReasonCertificateInvalid {
		t.Errorf("two different commands: %v", err)
	}
	if id, err := identify(`command="uptime" `, nil); err != nil || id.Grants.ForceCommand != "uptime" {
		t.Errorf("the line's command alone: %+v, %v", id, err)
	}
}

// Where no limit is configured, a certificate may be for ever; a configured RSA minimum holds for its key too.
func TestCertificateLimits(t *testing.T) {
	ca := signer(t, "ed25519")
	cert := certificate(t, signer(t, "rsa2048").PublicKey(), ca, func(c *ssh.Certificate) { c.ValidAfter, c.ValidBefore = 0, ssh.CertTimeInfinity })
	cfg := DirectoryConfig{People: []Person{alice()}, UserCAs: []string{keyText(ca.PublicKey())}}
	id, err := directory(t, cfg).Identify(cert, testSource, testNow)
	if err != nil || !id.Certificate.ValidBefore.IsZero() {
		t.Errorf("for ever: %+v, %v", id, err)
	}
	cfg.MinRSABits = 3072
	if _, err := directory(t, cfg).Identify(cert, testSource, testNow); reasonOf(err) != ReasonCertificateInvalid {
		t.Errorf("2048 bits where 3072 are demanded: %v", err)
	}
}

func TestCertificateOnSecurityKey(t *testing.T) {
	ca, key := signer(t, "ed25519"), skKey(t, "ssh:")
	d := directory(t, DirectoryConfig{People: []Person{alice()}, UserCAs: []string{keyText(ca.PublicKey())}})
	touched, err := d.Identify(certificate(t, key, ca, nil), testSource, testNow)
	if err != nil || !touched.touched() || touched.KeyType != ssh.KeyAlgoSKED25519 {
		t.Errorf("%+v, %v", touched, err)
	}
	waived, err := d.Identify(certificate(t, key, ca, func(c *ssh.Certificate) { c.Extensions["no-touch-required"] = "" }), testSource, testNow)
	if err != nil || waived.touched() {
		t.Errorf("%+v, %v: counts as touched", waived, err)
	}
}

func TestRefusalsOfCertificatesAreSentences(t *testing.T) {
	ca := signer(t, "ed25519")
	d := directory(t, DirectoryConfig{People: []Person{alice()}, UserCAs: []string{keyText(ca.PublicKey())}})
	cert := certificate(t, signer(t, "ed25519").PublicKey(), ca, func(c *ssh.Certificate) { c.CriticalOptions["a\x1b[2J"] = "" })
	_, err := d.Identify(cert, testSource, testNow)
	var refusal *Refusal
	if !errors.As(err, &refusal) || strings.Contains(refusal.Detail, "\x1b") {
		t.Errorf("%q", err)
	}
}
