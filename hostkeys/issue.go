package hostkeys

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/crypto/ssh"
)

const (
	certificateLife = 24 * time.Hour
	renewAfter      = certificateLife / 2 // what is older is not shown any more, so that a long session's rekey still finds it valid
	backdate        = 5 * time.Minute     // clients' clocks are not ours
	maxIssued       = 4096                // sets of names remembered; what falls out is minted again
	maxNames        = 32
	maxNameBytes    = 255 // a DNS name has at most 253
)

// Issuer makes the keys under which the gateway stands in for machines: one host key for all of them, and for each machine a certificate that
// names it. Clients need one @cert-authority line (KnownHostsLine). It is safe for use by several goroutines.
type Issuer struct {
	ca     ssh.Signer
	host   ssh.Signer
	issued *lru.Cache[string, issue]
}

type issue struct {
	signer ssh.Signer
	made   time.Time
}

// NewIssuer makes an Issuer. ca signs the certificates; nil means there are none, and clients see the bare host key. host is the key that is certified;
// nil means a new Ed25519 key that lives as long as the process, which is fit only for clients that know the CA. The bare key is what clients without
// the @cert-authority line remember, so give one that stays.
func NewIssuer(ca, host ssh.Signer) (*Issuer, error) {
	var err error
	if ca != nil {
		if _, isCert := ca.PublicKey().(*ssh.Certificate); isCert {
			return nil, errors.New("the host CA is itself a certificate: SSH has no chains, give the CA's key")
		}
		if ca, err = fit(ca); err != nil {
			return nil, fmt.Errorf("the host CA's key %w", err)
		}
	}
	if host == nil {
		_, private, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make a host key: %w", err)
		}
		if host, err = ssh.NewSignerFromSigner(private); err != nil {
			return nil, fmt.Errorf("make a host key: %w", err)
		}
	}
	issued, err := lru.New[string, issue](maxIssued)
	if err != nil {
		return nil, err
	}
	return &Issuer{ca: ca, host: host, issued: issued}, nil
}

// Signer gives the host key certified for exactly these names, and the same key bare for clients that know no CA. certified is nil without a CA.
// The names are those a client may have typed: the instance id first, then whatever else resolved to it, without a port. Each also counts in lower
// case, in which OpenSSH looks names up.
func (i *Issuer) Signer(names ...string) (certified, plain ssh.Signer, err error) {
	if i.ca == nil {
		return nil, i.host, nil
	}
	principals, err := principalsOf(names)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a host certificate: %w", err)
	}
	key := strings.Join(principals, " ")
	now := time.Now()
	if have, ok := i.issued.Get(key); ok && now.Sub(have.made) < renewAfter {
		return have.signer, i.host, nil
	}
	signer, err := i.mint(principals, now)
	if err != nil {
		return nil, nil, fmt.Errorf("issue a host certificate for %s: %w", principals[0], err)
	}
	i.issued.Add(key, issue{signer, now})
	return signer, i.host, nil
}

func (i *Issuer) mint(principals []string, now time.Time) (ssh.Signer, error) {
	var serial [8]byte
	rand.Read(serial[:]) // never fails, see crypto/rand
	cert := &ssh.Certificate{
		Key:             i.host.PublicKey(),
		Serial:          binary.BigEndian.Uint64(serial[:]),
		CertType:        ssh.HostCert,
		KeyId:           principals[0],
		ValidPrincipals: principals,
		ValidAfter:      uint64(now.Add(-backdate).Unix()),
		ValidBefore:     uint64(now.Add(certificateLife).Unix()),
		// No critical options: OpenSSH refuses a host certificate that has any.
	}
	if err := cert.SignCert(rand.Reader, i.ca); err != nil {
		return nil, err
	}
	return ssh.NewCertSigner(cert, i.host)
}

// principalsOf gives the names in order, each once, with its lower case. OpenSSH takes a host certificate's principals as patterns, so a name typed
// by somebody must never carry one into a certificate: `ssh -J gateway '*'` would make a certificate for every host there is.
func principalsOf(names []string) ([]string, error) {
	if len(names) == 0 || len(names) > maxNames {
		return nil, fmt.Errorf("%d names, where 1 to %d make sense", len(names), maxNames)
	}
	var principals []string
	for _, name := range names {
		if name == "" || len(name) > maxNameBytes || strings.ContainsFunc(name, notInName) {
			return nil, fmt.Errorf("%.64q cannot stand in a certificate", name)
		}
		for _, form := range []string{name, strings.ToLower(name)} {
			if !slices.Contains(principals, form) {
				principals = append(principals, form)
			}
		}
	}
	return principals, nil
}

func notInName(r rune) bool {
	switch {
	case 'a' <= r && r <= 'z', 'A' <= r && r <= 'Z', '0' <= r && r <= '9':
		return false
	}
	return !strings.ContainsRune("-._:/@+=", r)
}

// KnownHostsLine gives the line, without a newline, that makes an OpenSSH client believe the certificates for hosts that match patterns (known_hosts
// in sshd(8)). Without patterns it is for instance ids. It is empty without a CA.
func (i *Issuer) KnownHostsLine(patterns ...string) string {
	if i.ca == nil {
		return ""
	}
	if len(patterns) == 0 {
		patterns = []string{"i-*", "mi-*"}
	}
	return "@cert-authority " + strings.Join(patterns, ",") + " " + strings.TrimSpace(string(ssh.MarshalAuthorizedKey(i.ca.PublicKey())))
}
