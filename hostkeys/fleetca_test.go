package hostkeys

import (
	"crypto/rand"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

func certify(t *testing.T, ca ssh.Signer, edit func(*ssh.Certificate)) *ssh.Certificate {
	t.Helper()
	now := time.Now()
	cert := &ssh.Certificate{
		Key: newEd25519(t).PublicKey(), CertType: ssh.HostCert, KeyId: "test", ValidPrincipals: []string{"i-0abc"},
		ValidAfter: uint64(now.Add(-time.Hour).Unix()), ValidBefore: uint64(now.Add(time.Hour).Unix()),
	}
	edit(cert)
	if err := cert.SignCert(rand.Reader, ca); err != nil {
		t.Fatal(err)
	}
	return cert
}

func TestFleetCA(t *testing.T) {
	ca, stranger := newEd25519(t), newEd25519(t)
	sha1CA, err := ssh.NewSignerWithAlgorithms(newRSA(t, minRSABits).(ssh.AlgorithmSigner), []string{ssh.KeyAlgoRSA})
	if err != nil {
		t.Fatal(err)
	}
	nothing := func(*ssh.Certificate) {}
	for _, c := range []struct {
		name  string
		ca    ssh.Signer
		edit  func(*ssh.Certificate)
		names []string
		how   Belief // empty: refused
	}{
		{name: "for the id", ca: ca, edit: nothing, how: BelievedCA},
		{name: "for the DNS name", ca: ca, edit: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"ip-10-0-0-1.internal"} }, names: []string{"ip-10-0-0-1.internal"}, how: BelievedCA},
		{name: "for another machine", ca: ca, edit: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"i-0abd"} }},
		{name: "for the account and region", ca: ca, edit: func(c *ssh.Certificate) { c.ValidPrincipals = []string{"111122223333", "eu-west-1", somewhere} }},
		{name: "for every machine", ca: ca, edit: func(c *ssh.Certificate) { c.ValidPrincipals = nil }},
		{name: "for a user", ca: ca, edit: func(c *ssh.Certificate) { c.CertType = ssh.UserCert }},
		{name: "expired", ca: ca, edit: func(c *ssh.Certificate) { c.ValidBefore = uint64(time.Now().Add(-time.Minute).Unix()) }},
		{name: "not yet valid", ca: ca, edit: func(c *ssh.Certificate) { c.ValidAfter = uint64(time.Now().Add(time.Minute).Unix()) }},
		{name: "critical option", ca: ca, edit: func(c *ssh.Certificate) { c.CriticalOptions = map[string]string{"force-command": "true"} }},
		{name: "signed with SHA-1", ca: sha1CA, edit: nothing},
		{name: "of a stranger", ca: stranger, edit: nothing, how: BelievedFirstUse},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := &Verifier{Store: NewMemoryStore(), HostCAs: []ssh.PublicKey{ca.PublicKey(), sha1CA.PublicKey()}}
			how, err := v.CheckNamed(t.Context(), somewhere, c.names, certify(t, c.ca, c.edit), nil)
			if c.how != "" {
				if err != nil || how != c.how {
					t.Errorf("believed as %q, %v; want %q", how, err, c.how)
				}
				return
			}
			if r := refusal(t, err); r.Reason != authz.ReasonHostKeyUnknown || how != "" {
				t.Errorf("believed as %q, %v", how, err)
			}
		})
	}
}

// A machine that is rebuilt under its name is believed through the CA, and nobody has to forget a pin.
func TestFleetCAOutweighsAPin(t *testing.T) {
	ca := newEd25519(t)
	v := &Verifier{Store: NewMemoryStore(), HostCAs: []ssh.PublicKey{ca.PublicKey()}}
	if err := v.Store.Replace(t.Context(), NewPin(somewhere, BelievedFirstUse, newEd25519(t).PublicKey())); err != nil {
		t.Fatal(err)
	}
	if how, err := v.Check(t.Context(), somewhere, certify(t, ca, func(*ssh.Certificate) {}), nil); err != nil || how != BelievedCA {
		t.Errorf("believed as %q, %v", how, err)
	}
}

func TestAlgorithms(t *testing.T) {
	v := &Verifier{Store: NewMemoryStore()}
	all := v.Algorithms(somewhere)
	if all[0] != ssh.KeyAlgoED25519 || len(all) != 6 {
		t.Errorf("with nothing pinned: %v", all)
	}
	supported := ssh.SupportedAlgorithms().HostKeys
	for _, algorithm := range append(slices.Clone(all), certAlgorithms...) {
		if !slices.Contains(supported, algorithm) {
			t.Errorf("%s is not among x/crypto's safe algorithms", algorithm)
		}
	}
	v.HostCAs = []ssh.PublicKey{newEd25519(t).PublicKey()}
	if err := v.Store.Replace(t.Context(), NewPin(somewhere, BelievedFirstUse, newECDSA(t).PublicKey())); err != nil {
		t.Fatal(err)
	}
	got := v.Algorithms(somewhere)
	if want := append(slices.Clone(certAlgorithms), ssh.KeyAlgoECDSA256, ssh.KeyAlgoED25519); !slices.Equal(got[:len(want)], want) {
		t.Errorf("with a CA and a pin: %v", got)
	}
}
