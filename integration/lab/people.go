package lab

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/crypto/ssh"
)

// People of the lab. The first four may log in, by different kinds of proof; the others are strangers, each for another reason.
//
//	alice            a plain key
//	bob              a certificate of the lab's user CA
//	carol            a FIDO key, where OpenSSH's dummy security key is installed
//	dave             a plain key, too
//	mallory          a key that nobody knows
//	revoked          a known person's key that is on the revocation list
//	expired          a certificate that has expired
//	wrong-principal  a certificate that names nobody
//	wrong-ca         a certificate for bob by an authority that is not believed
var peopleWithRoles = []string{"alice", "bob", "carol", "dave", "revoked"}

// securityKeyProviders are the places where Debian's openssh-tests has the dummy security key of OpenSSH's own tests.
var securityKeyProviders = []string{"/usr/lib/openssh/regress/misc/sk-dummy/sk-dummy.so"}

// SecurityKeyProvider is the dummy security key, or an error that says how to get it.
func SecurityKeyProvider() (string, error) {
	for _, path := range securityKeyProviders {
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("OpenSSH's dummy security key is not installed (Debian: openssh-tests)")
}

// crowd is the keys of everybody, as files in one directory.
type crowd struct {
	dir        string
	authority  ssh.Signer        // the user CA
	publicKeys map[string]string // authorized_keys line by person
	hasFIDO    bool
}

// newCrowd makes everybody's keys and certificates in dir.
func newCrowd(dir string) (*crowd, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	c := &crowd{dir: dir, publicKeys: map[string]string{}}
	var err error
	if c.authority, err = newSigner(); err != nil {
		return nil, err
	}
	stranger, err := newSigner()
	if err != nil {
		return nil, err
	}
	now := time.Now()
	for _, p := range []struct {
		name        string
		ca          ssh.Signer // nil: a plain key
		principal   string
		validBefore time.Time
	}{
		{name: "alice"},
		{name: "dave"},
		{name: "mallory"},
		{name: "revoked"},
		{"bob", c.authority, "bob", now.Add(time.Hour)},
		{"expired", c.authority, "bob", now.Add(-time.Minute)},
		{"wrong-principal", c.authority, "nobody", now.Add(time.Hour)},
		{"wrong-ca", stranger, "bob", now.Add(time.Hour)},
	} {
		if err := c.enroll(p.name, p.ca, p.principal, p.validBefore); err != nil {
			return nil, fmt.Errorf("keys of %s: %w", p.name, err)
		}
	}
	return c, c.enrollSecurityKey("carol")
}

// enroll writes a key pair and, with an authority, a certificate.
func (c *crowd) enroll(name string, authority ssh.Signer, principal string, validBefore time.Time) error {
	signer, pemText, err := newKeyPEM(name + "@lab")
	if err != nil {
		return err
	}
	c.publicKeys[name] = string(ssh.MarshalAuthorizedKey(signer.PublicKey()))
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, pemText, 0o600); err != nil {
		return err
	}
	if err := os.WriteFile(path+".pub", []byte(c.publicKeys[name]), 0o600); err != nil {
		return err
	}
	if authority == nil {
		return nil
	}
	certificate := &ssh.Certificate{
		Key: signer.PublicKey(), CertType: ssh.UserCert, KeyId: name + "@lab", Serial: 1, ValidPrincipals: []string{principal},
		ValidAfter: uint64(validBefore.Add(-2 * time.Hour).Unix()), ValidBefore: uint64(validBefore.Unix()),
		Permissions: ssh.Permissions{Extensions: map[string]string{
			"permit-pty": "", "permit-port-forwarding": "", "permit-agent-forwarding": "", "permit-X11-forwarding": "",
		}},
	}
	if err := certificate.SignCert(rand.Reader, authority); err != nil {
		return err
	}
	return os.WriteFile(path+"-cert.pub", ssh.MarshalAuthorizedKey(certificate), 0o600)
}

// enrollSecurityKey makes a FIDO key with OpenSSH's dummy authenticator, where that is installed.
func (c *crowd) enrollSecurityKey(name string) error {
	provider, err := SecurityKeyProvider()
	if err != nil {
		return nil //nolint:nilerr // then there is no such person; who needs her asks SecurityKeyProvider why
	}
	path := filepath.Join(c.dir, name)
	keygen := exec.Command("ssh-keygen", "-q", "-t", "ed25519-sk", "-w", provider, "-N", "", "-C", name+"@lab", "-f", path)
	if out, err := keygen.CombinedOutput(); err != nil {
		return fmt.Errorf("ssh-keygen for a security key: %w: %s", err, out)
	}
	public, err := os.ReadFile(path + ".pub")
	if err != nil {
		return err
	}
	c.publicKeys[name], c.hasFIDO = string(public), true
	return nil
}

func newSigner() (ssh.Signer, error) {
	signer, _, err := newKeyPEM("")
	return signer, err
}

// newKeyPEM makes an Ed25519 key, and its text as ssh-keygen writes it.
func newKeyPEM(comment string) (ssh.Signer, []byte, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, nil, err
	}
	block, err := ssh.MarshalPrivateKey(private, comment)
	if err != nil {
		return nil, nil, err
	}
	signer, err := ssh.NewSignerFromSigner(private)
	return signer, pem.EncodeToMemory(block), err
}
