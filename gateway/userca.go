package gateway

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const (
	// certificateLife is how long after its making a certificate logs in: enough for one login through Session Manager.
	certificateLife = 90 * time.Second
	// certificateBackdate is how far behind a machine's clock may be.
	certificateBackdate = 30 * time.Second
)

// UserCA signs the certificates by which the gateway logs in to machines that EC2 Instance Connect does not serve, and that trust it instead
// (TrustedUserCAKeys in sshd_config(5)). Each certifies a key that lives in memory only, for one OS user, one login and two minutes. It is safe for use by
// several goroutines, and prints as its fingerprint.
type UserCA struct{ signer ssh.Signer }

// NewUserCA makes a UserCA of its private key.
func NewUserCA(signer ssh.Signer) (*UserCA, error) {
	if signer == nil {
		return nil, errors.New("the user CA has no key")
	}
	if _, isCert := signer.PublicKey().(*ssh.Certificate); isCert {
		return nil, errors.New("the user CA is itself a certificate: SSH has no chains, give the CA's key")
	}
	return &UserCA{signer}, nil
}

// TrustLine gives the line, without a newline, for the file that TrustedUserCAKeys of a machine's sshd_config names.
func (ca *UserCA) TrustLine() string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(ca.signer.PublicKey()))) + " ssm-ssh-gateway user CA"
}

// String gives the fingerprint, and nothing of the private key.
func (ca *UserCA) String() string { return "user CA " + ssh.FingerprintSHA256(ca.signer.PublicKey()) }

// GoString is String.
func (ca *UserCA) GoString() string { return ca.String() }

// LogValue implements slog.LogValuer by String.
func (ca *UserCA) LogValue() slog.Value { return slog.StringValue(ca.String()) }

// certify signs key for one login as osUser from now on. What the person's own key may not do on a session, the certificate may not either. keyID is what
// the machine's sshd logs.
func (ca *UserCA) certify(key ssh.Signer, osUser, keyID string, grants authz.ChannelGrants, now time.Time) (ssh.Signer, *ssh.Certificate, error) {
	var serial [8]byte
	_, _ = rand.Read(serial[:]) // never fails, see crypto/rand
	cert := &ssh.Certificate{
		Key:             key.PublicKey(),
		Serial:          binary.BigEndian.Uint64(serial[:]),
		CertType:        ssh.UserCert,
		KeyId:           keyID,
		ValidPrincipals: []string{osUser}, // never none: that would be everybody
		ValidAfter:      uint64(now.Add(-certificateBackdate).Unix()),
		ValidBefore:     uint64(now.Add(certificateLife).Unix()),
		// No source-address: the machine sees its own agent as the client.
		Permissions: ssh.Permissions{Extensions: extensionsFor(grants)},
	}
	if osUser == "" {
		return nil, nil, errors.New("a certificate needs an OS user")
	}
	if err := cert.SignCert(rand.Reader, ca.signer); err != nil {
		return nil, nil, fmt.Errorf("sign a certificate for %s: %w", osUser, err)
	}
	signer, err := ssh.NewCertSigner(cert, key)
	if err != nil {
		return nil, nil, fmt.Errorf("certificate for %s: %w", osUser, err)
	}
	return signer, cert, nil
}

// extensionsFor are the extensions (OpenSSH PROTOCOL.certkeys) of what the person may have.
func extensionsFor(g authz.ChannelGrants) map[string]string {
	extensions := map[string]string{"permit-user-rc": ""} // as for any key of the user's
	for name, granted := range map[string]bool{
		"permit-pty": g.PTY, "permit-port-forwarding": g.PortForwarding,
		"permit-agent-forwarding": g.AgentForwarding, "permit-X11-forwarding": g.X11Forwarding,
	} {
		if granted {
			extensions[name] = ""
		}
	}
	return extensions
}
