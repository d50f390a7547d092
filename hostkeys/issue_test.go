package hostkeys

import (
	"bytes"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
)

func certificateOf(t *testing.T, signer ssh.Signer) *ssh.Certificate {
	t.Helper()
	cert, ok := signer.PublicKey().(*ssh.Certificate)
	if !ok {
		t.Fatalf("the certified signer shows a %s", signer.PublicKey().Type())
	}
	return cert
}

func TestCertificateNamesExactlyWhatWasAsked(t *testing.T) {
	for name, ca := range map[string]ssh.Signer{"ed25519": newEd25519(t), "ecdsa": newECDSA(t), "rsa": newRSA(t, minRSABits)} {
		t.Run(name, func(t *testing.T) {
			issuer, err := NewIssuer(ca, nil)
			if err != nil {
				t.Fatal(err)
			}
			certified, plain, err := issuer.Signer("i-0abc", "Web-1", "i-0abc")
			if err != nil {
				t.Fatal(err)
			}
			cert := certificateOf(t, certified)
			if want := []string{"i-0abc", "Web-1", "web-1"}; !slices.Equal(cert.ValidPrincipals, want) {
				t.Errorf("principals %q, want %q", cert.ValidPrincipals, want)
			}
			if !bytes.Equal(cert.Key.Marshal(), plain.PublicKey().Marshal()) {
				t.Error("the bare key is another than the certified one")
			}
			if cert.CertType != ssh.HostCert || len(cert.CriticalOptions) != 0 || cert.KeyId != "i-0abc" {
				t.Errorf("type %d, options %v, id %q", cert.CertType, cert.CriticalOptions, cert.KeyId)
			}
			v := &Verifier{HostCAs: []ssh.PublicKey{ca.PublicKey()}}
			for _, name := range cert.ValidPrincipals {
				if err := v.certificateFault([]string{name}, cert); err != nil {
					t.Errorf("for %s: %v", name, err)
				}
			}
			if err := v.certificateFault([]string{"i-0abd"}, cert); err == nil {
				t.Error("it is good for a machine it does not name")
			}
		})
	}
}

// OpenSSH reads a host certificate's principals as patterns.
func TestNoPatternEntersACertificate(t *testing.T) {
	issuer, err := NewIssuer(newEd25519(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, names := range [][]string{
		nil,
		{""},
		{"*"},
		{"i-0abc", "*"},
		{"i-?"},
		{"!i-0abc"},
		{"a,b"},
		{"a b"},
		{"a\nb"},
		{"a\x00"},
		{"ä"},
		{strings.Repeat("a", maxNameBytes+1)},
		make([]string, maxNames+1),
	} {
		if certified, _, err := issuer.Signer(names...); err == nil {
			t.Errorf("a certificate for %q: %q", names, certificateOf(t, certified).ValidPrincipals)
		}
	}
}

func TestCertificateIsRenewedAtHalfItsLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		issuer, err := NewIssuer(newEd25519(t), newEd25519(t))
		if err != nil {
			t.Fatal(err)
		}
		get := func() *ssh.Certificate {
			certified, _, err := issuer.Signer("i-0abc")
			if err != nil {
				t.Fatal(err)
			}
			return certificateOf(t, certified)
		}
		first, now := get(), time.Now()
		if from := time.Unix(int64(first.ValidAfter), 0); now.Sub(from) != backdate {
			t.Errorf("valid from %v before now, want %v", now.Sub(from), backdate)
		}
		if until := time.Unix(int64(first.ValidBefore), 0); until.Sub(now) != certificateLife {
			t.Errorf("valid for %v, want %v", until.Sub(now), certificateLife)
		}
		time.Sleep(renewAfter - time.Second)
		if again := get(); again.Serial != first.Serial {
			t.Error("minted again before half its life")
		}
		time.Sleep(time.Second)
		if again := get(); again.Serial == first.Serial {
			t.Error("still the old one at half its life")
		}
	})
}

func TestIssuerWithoutCA(t *testing.T) {
	host := newEd25519(t)
	issuer, err := NewIssuer(nil, host)
	if err != nil {
		t.Fatal(err)
	}
	certified, plain, err := issuer.Signer("i-0abc")
	if err != nil || certified != nil || plain != host {
		t.Errorf("certified %v, plain %v, err %v", certified, plain, err)
	}
	if line := issuer.KnownHostsLine(); line != "" {
		t.Errorf("a CA line without a CA: %q", line)
	}
}

func TestIssuerRefusesAWeakCA(t *testing.T) {
	if _, err := NewIssuer(newRSA(t, 2048), nil); err == nil || !strings.Contains(err.Error(), "2048") {
		t.Errorf("a CA of 2048 bits: %v", err)
	}
	issuer, err := NewIssuer(newEd25519(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	certified, _, err := issuer.Signer("i-0abc")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := NewIssuer(certified, nil); err == nil {
		t.Error("a certificate as CA")
	}
}

func TestKnownHostsLine(t *testing.T) {
	ca := newEd25519(t)
	issuer, err := NewIssuer(ca, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := issuer.KnownHostsLine(), "@cert-authority i-*,mi-* "+keyText(ca.PublicKey()); got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if got := issuer.KnownHostsLine("*.gw", "web-*"); !strings.HasPrefix(got, "@cert-authority *.gw,web-* ssh-ed25519 ") {
		t.Errorf("got %q", got)
	}
}
