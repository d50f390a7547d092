package authz

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// DirectoryConfig says who there is. Paths in findings are spelt after the TOML keys: person[0].keys[1], group[0].role, user_cas[0], revoked_keys[0].
type DirectoryConfig struct {
	People []Person
	Groups []Group
	// UserCAs are the authorities whose user certificates are believed for every person: authorized_keys text of one line or many, each a CA's
	// public key, with or without cert-authority, perhaps narrowed by principals=, from=, expiry-time= or restrict.
	UserCAs []string
	// RevokedKeys are the contents of revocation lists: OpenSSH KRLs, or text with a public key or SHA256 fingerprint each line.
	RevokedKeys [][]byte
	// ExternalIDs are handed along when a role of that account, by alias or id, is assumed.
	ExternalIDs map[string]string
	// AmbientCredentials lets a person without a role work with the gateway's own credentials: one person on a laptop. Off, such a person is refused.
	AmbientCredentials bool
	// MinRSABits is the least size of an RSA key, of a person or an authority; 0: 2048.
	MinRSABits int
	// MaxCertificateValidity refuses certificates made for longer than this; 0: no limit.
	MaxCertificateValidity time.Duration
}

// Person is somebody who may log in. The name must match [\w+=,.@-]{2,64} and not begin with "aws:", for it becomes RoleSessionName and
// SourceIdentity (STS AssumeRole).
type Person struct {
	Name       string
	Keys       []string          // authorized_keys text with its options, one line or many each; cert-authority lines stand for this person only
	Principals []string          // a certificate that names one of these means this person
	Groups     []string          // names from DirectoryConfig.Groups
	Role       string            // ARN, for every account that Roles does not name
	Roles      map[string]string // account alias or id to ARN
	Tags       map[string]string // session tags; win over those of groups
}

// Group gives its members a role and tags, and a name for policies.
type Group struct {
	Name  string
	Role  string
	Roles map[string]string
	Tags  map[string]string
}

// Directory knows whom a key belongs to. It is an immutable snapshot, safe for concurrent use.
type Directory struct {
	people       map[string]*Person
	groups       map[string]*Group
	keys         map[string]*ownedKey    // by key blob
	authorities  map[string][]*authority // by CA key blob
	byPrincipal  map[string]*Person
	revoked      revocations
	externalIDs  map[string]string
	ambient      bool
	minRSABits   int
	maxCertValid time.Duration
}

type ownedKey struct {
	*keyLine
	person *Person
}

// authority is a CA line: everybody's, or one person's.
type authority struct {
	*keyLine
	person *Person // nil: for all people, by their principals
}

// Candidate reports whether a key might be somebody's: a listed key, or a certificate that says it is from a known authority. It is cheap and
// keeps nothing, fit for PublicKeyCallback, where nothing is proven yet. Revoked and expired keys are candidates too, since only who proves
// a key is told why it is refused; that refusal is Identify's.
func (d *Directory) Candidate(key ssh.PublicKey, _ time.Time) bool {
	if cert, isCert := key.(*ssh.Certificate); isCert {
		return len(d.authorities[string(cert.SignatureKey.Marshal())]) > 0
	}
	owned := d.keys[string(key.Marshal())]
	return owned != nil
}

// TouchWaived reports whether a listed FIDO key need not be touched (no-touch-required). PublicKeyCallback says so to x/crypto/ssh with the
// extension of that name in its Permissions. Certificates carry their own.
func (d *Directory) TouchWaived(key ssh.PublicKey) bool {
	owned := d.keys[string(key.Marshal())]
	return owned != nil && owned.touchWaived
}

// Identify says who proved key, from where, at a time. It must be called only for a key whose signature was verified (VerifiedPublicKeyCallback).
// Every error is a *Refusal: unknown, revoked or expired key, wrong source, or any fault of a certificate.
func (d *Directory) Identify(key ssh.PublicKey, source netip.AddrPort, now time.Time) (*Identity, error) {
	if cert, isCert := key.(*ssh.Certificate); isCert {
		return d.identifyCertificate(cert, source, now)
	}
	fingerprint := ssh.FingerprintSHA256(key)
	owned := d.keys[string(key.Marshal())]
	if owned == nil {
		return nil, &Refusal{Reason: ReasonUnknownKey, Subject: fingerprint}
	}
	if d.revoked.revoked(key) {
		return nil, &Refusal{Reason: ReasonRevoked, Subject: fingerprint, Detail: "the key is on a revocation list"}
	}
	if refusal := owned.usable(fingerprint, source, now); refusal != nil {
		return nil, refusal
	}
	method := MethodPublicKey
	if isSecurityKey(key) {
		method = MethodSecurityKey
	}
	return d.identity(owned.person, key, method, owned.grants, owned.touchWaived, source), nil
}

// usable judges expiry-time= and from= of a line, for a plain key or an authority.
func (k *keyLine) usable(subject string, source netip.AddrPort, now time.Time) *Refusal {
	if !k.expiry.IsZero() && !now.Before(k.expiry) {
		return &Refusal{Reason: ReasonCertificateExpired, Subject: subject, Detail: "the key's expiry-time was " + k.expiry.UTC().Format(time.RFC3339)}
	}
	if !k.from.allows(source.Addr()) {
		return &Refusal{Reason: ReasonSourceAddress, Subject: subject, Detail: "not for use from " + source.Addr().Unmap().String()}
	}
	return nil
}

// identity puts together what is known of a person who proved a key.
func (d *Directory) identity(p *Person, key ssh.PublicKey, m Method, g ChannelGrants, touchWaived bool, source netip.AddrPort) *Identity {
	id := d.describe(p, source)
	signer := key
	if cert, isCert := key.(*ssh.Certificate); isCert {
		signer = cert.Key
	}
	id.Method, id.Grants = m, g
	id.Fingerprint, id.KeyType = ssh.FingerprintSHA256(signer), signer.Type()
	id.proof, id.touchWaived = key, touchWaived
	return id
}

func (d *Directory) describe(p *Person, source netip.AddrPort) *Identity {
	groups := slices.Clone(p.Groups)
	slices.Sort(groups)
	return &Identity{Person: p.Name, Groups: groups, Tags: d.tags(p), Source: source}
}

// Hypothetical is what a person would be who had proven a plain key without options: for explaining decisions, where nobody logs in. StillValid
// refuses it, so that it can carry no session. An unknown name is a *Refusal with ReasonUnknownKey.
func (d *Directory) Hypothetical(person string, source netip.AddrPort) (*Identity, error) {
	p := d.people[person]
	if p == nil {
		return nil, &Refusal{Reason: ReasonUnknownKey, Subject: clip(person), Detail: "nobody of that name is configured"}
	}
	id := d.describe(p, source)
	id.Method, id.Grants = MethodPublicKey, allGrants()
	return id, nil
}

// People lists the configured names, sorted.
func (d *Directory) People() []string {
	names := make([]string, 0, len(d.people))
	for name := range d.people {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// StillValid judges an identity again, now and by this directory: nil if the same proof still means the same person with no right less. Ask it for
// everything live after a reload, and now and then, since keys and certificates expire. The error is a *Refusal.
func (d *Directory) StillValid(id *Identity, now time.Time) error {
	if id == nil || id.proof == nil {
		return &Refusal{Reason: ReasonUnknownKey, Detail: "no key was proven"}
	}
	again, err := d.Identify(id.proof, id.Source, now)
	if err != nil {
		return err
	}
	if again.Person != id.Person {
		return &Refusal{Reason: ReasonRevoked, Subject: id.Fingerprint, Detail: "the key is somebody else's now"}
	}
	if !again.Grants.covers(id.Grants) {
		return &Refusal{Reason: ReasonRevoked, Subject: id.Fingerprint, Detail: "the key's rights were reduced"}
	}
	return nil
}

// isSecurityKey reports whether a plain key lives in a FIDO authenticator.
func isSecurityKey(key ssh.PublicKey) bool {
	return key.Type() == ssh.KeyAlgoSKED25519 || key.Type() == ssh.KeyAlgoSKECDSA256
}

// NewDirectory checks a configuration and makes a Directory of it. The error joins a *Finding for everything that is wrong.
func NewDirectory(cfg DirectoryConfig) (*Directory, error) {
	b := newBuilder(cfg)
	b.groups(cfg.Groups)
	b.people(cfg.People)
	for i, text := range cfg.UserCAs {
		b.userCA(fmt.Sprintf("user_cas[%d]", i), text)
	}
	for i, blob := range cfg.RevokedKeys {
		b.report(b.d.revoked.add(fmt.Sprintf("revoked_keys[%d]", i), blob)...)
	}
	if len(b.findings) > 0 {
		return nil, errors.Join(b.findings...)
	}
	return b.d, nil
}
