package authz

import (
	"fmt"
	"net/netip"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// caSignatures are the signature algorithms believed of an authority. ssh-rsa, which is SHA-1, is not among them, as in sshd's
// CASignatureAlgorithms; x/crypto's CertChecker does not look.
var caSignatures = map[string]bool{
	ssh.KeyAlgoED25519: true, ssh.KeyAlgoECDSA256: true, ssh.KeyAlgoECDSA384: true, ssh.KeyAlgoECDSA521: true,
	ssh.KeyAlgoRSASHA256: true, ssh.KeyAlgoRSASHA512: true, ssh.KeyAlgoSKED25519: true, ssh.KeyAlgoSKECDSA256: true,
}

// The critical options that are enforced. Any other refuses the certificate, verify-required too: a PIN is out of the SSH library's sight.
const (
	optionForceCommand  = "force-command"
	optionSourceAddress = "source-address"
)

// The extensions that grant (OpenSSH PROTOCOL.certkeys). Unknown ones grant nothing.
const (
	extensionPTY     = "permit-pty"
	extensionPorts   = "permit-port-forwarding"
	extensionAgent   = "permit-agent-forwarding"
	extensionX11     = "permit-X11-forwarding"
	extensionNoTouch = "no-touch-required"
)

// identifyCertificate judges a certificate: x/crypto's CertChecker, and all that sshd checks and CertChecker does not. Nothing it says is believed
// before its signature is.
func (d *Directory) identifyCertificate(cert *ssh.Certificate, source netip.AddrPort, now time.Time) (*Identity, error) {
	subject := ssh.FingerprintSHA256(cert.Key)
	lines := d.authorities[string(cert.SignatureKey.Marshal())]
	if len(lines) == 0 {
		return nil, invalidCertificate(subject, "it is not from an authority trusted here", nil)
	}
	if refusal := d.believable(cert, subject); refusal != nil {
		return nil, refusal
	}
	if d.revoked.revoked(cert) {
		return nil, &Refusal{Reason: ReasonRevoked, Subject: subject, Detail: "the certificate, its key or its authority is on a revocation list"}
	}
	if refusal := d.inForce(cert, subject, now); refusal != nil {
		return nil, refusal
	}
	if refusal := optionsKept(cert, subject, source); refusal != nil {
		return nil, refusal
	}
	line, person, refusal := d.certified(cert, lines, subject, source, now)
	if refusal != nil {
		return nil, refusal
	}
	grants, refusal := certificateGrants(cert, line.keyLine, subject)
	if refusal != nil {
		return nil, refusal
	}
	_, noTouch := cert.Extensions[extensionNoTouch]
	id := d.identity(person, cert, MethodCertificate, grants, noTouch, source)
	id.Certificate = describeCertificate(cert)
	return id, nil
}

func invalidCertificate(subject, detail string, cause error) *Refusal {
	return &Refusal{Reason: ReasonCertificateInvalid, Subject: subject, Detail: detail, Cause: cause}
}

// believable checks form and signature.
func (d *Directory) believable(cert *ssh.Certificate, subject string) *Refusal {
	if cert.CertType != ssh.UserCert {
		return invalidCertificate(subject, "it is not a user certificate", nil)
	}
	if err := acceptKey(cert.Key, d.minRSABits); err != nil {
		return invalidCertificate(subject, "its key is not accepted", err)
	}
	if cert.Signature == nil || !caSignatures[cert.Signature.Format] {
		return invalidCertificate(subject, "its authority signed it with an algorithm that is not accepted", nil)
	}
	// CheckCert is the only way to the signature check that knows authorities kept in FIDO keys. Its other checks are ours to make, with reasons;
	// here they are made to pass, except that a certificate with no moment of validity fails.
	options := make([]string, 0, len(cert.CriticalOptions))
	for name := range cert.CriticalOptions {
		options = append(options, name)
	}
	principal := ""
	if len(cert.ValidPrincipals) > 0 {
		principal = cert.ValidPrincipals[0]
	}
	checker := ssh.CertChecker{
		SupportedCriticalOptions: options,
		Clock:                    func() time.Time { return time.Unix(int64(cert.ValidAfter), 0) },
	}
	if err := checker.CheckCert(principal, cert); err != nil {
		return invalidCertificate(subject, "its signature does not verify", err)
	}
	return nil
}

// inForce checks the time: valid_after <= now < valid_before, and not made for longer than is wanted here.
func (d *Directory) inForce(cert *ssh.Certificate, subject string, now time.Time) *Refusal {
	expired := func(detail string) *Refusal {
		return &Refusal{Reason: ReasonCertificateExpired, Subject: subject, Detail: detail}
	}
	unix := uint64(max(now.Unix(), 0))
	switch {
	case unix < cert.ValidAfter:
		return expired("it is valid only from " + certTime(cert.ValidAfter).Format(time.RFC3339))
	case unix >= cert.ValidBefore:
		return expired("it was valid until " + certTime(cert.ValidBefore).Format(time.RFC3339))
	case d.maxCertValid > 0 && cert.ValidBefore-cert.ValidAfter > uint64(d.maxCertValid/time.Second):
		return expired(fmt.Sprintf("it was made for longer than the %s that are accepted", d.maxCertValid))
	}
	return nil
}

// certTime makes a time of a certificate's seconds; the zero time means forever.
func certTime(unix uint64) time.Time {
	if unix > 1<<62 {
		return time.Time{}
	}
	return time.Unix(int64(unix), 0).UTC()
}

// optionsKept refuses options that cannot be enforced, and enforces source-address here as well as wherever x/crypto does.
func optionsKept(cert *ssh.Certificate, subject string, source netip.AddrPort) *Refusal {
	for name := range cert.CriticalOptions {
		if name != optionForceCommand && name != optionSourceAddress {
			return invalidCertificate(subject, fmt.Sprintf("its critical option %q cannot be enforced here", clip(name)), nil)
		}
	}
	networks, narrowed := cert.CriticalOptions[optionSourceAddress]
	if !narrowed {
		return nil
	}
	allowed, err := sourceAddressAllows(networks, source.Addr())
	switch {
	case err != nil:
		return invalidCertificate(subject, "its source-address option is malformed", err)
	case !allowed:
		return &Refusal{Reason: ReasonSourceAddress, Subject: subject, Detail: "the certificate is not for use from " + source.Addr().Unmap().String()}
	}
	return nil
}

// certified finds the one person a certificate means, and the CA line that vouches. A CA may stand in several lines, narrowed differently; the
// refusal of the last line that did not fit is told when none does.
func (d *Directory) certified(
	cert *ssh.Certificate, lines []*authority, subject string, source netip.AddrPort, now time.Time,
) (*authority, *Person, *Refusal) {
	if len(cert.ValidPrincipals) == 0 {
		return nil, nil, &Refusal{Reason: ReasonWrongPrincipal, Subject: subject, Detail: "the certificate names no principal"}
	}
	var by *authority
	var person *Person
	refusal := &Refusal{Reason: ReasonWrongPrincipal, Subject: subject, Detail: "no principal of the certificate is known here"}
	for _, line := range lines {
		people := d.meant(cert, line)
		if len(people) == 0 {
			continue
		}
		if r := line.usable(subject, source, now); r != nil {
			refusal = r
			continue
		}
		if len(people) > 1 || person != nil && person != people[0] {
			return nil, nil, &Refusal{Reason: ReasonWrongPrincipal, Subject: subject, Detail: "the certificate's principals mean several people"}
		}
		if person == nil {
			by, person = line, people[0]
		}
	}
	if person == nil {
		return nil, nil, refusal
	}
	return by, person, nil
}

// meant lists whom a certificate can mean by one CA line, each once. Principals have no wildcards.
func (d *Directory) meant(cert *ssh.Certificate, line *authority) []*Person {
	var people []*Person
	for _, principal := range cert.ValidPrincipals {
		if line.principals != nil && !slices.Contains(line.principals, principal) {
			continue
		}
		p := d.byPrincipal[principal]
		if line.person != nil {
			// One person's own authority: its principals= says enough, else the person's principals do.
			if line.principals == nil && p != line.person {
				continue
			}
			p = line.person
		}
		if p != nil && !slices.Contains(people, p) {
			people = append(people, p)
		}
	}
	return people
}

// certificateGrants combines the extensions with the options of the CA's line, the stricter of each. Two forced commands must be the same
// (auth-options.c, sshauthopt_merge).
func certificateGrants(cert *ssh.Certificate, line *keyLine, subject string) (ChannelGrants, *Refusal) {
	has := func(extension string) bool { _, ok := cert.Extensions[extension]; return ok }
	g := line.grants
	g.PTY = g.PTY && has(extensionPTY)
	g.PortForwarding = g.PortForwarding && has(extensionPorts)
	g.AgentForwarding = g.AgentForwarding && has(extensionAgent)
	g.X11Forwarding = g.X11Forwarding && has(extensionX11)
	forced, isForced := cert.CriticalOptions[optionForceCommand]
	switch {
	case !isForced:
	case forced == "":
		return g, invalidCertificate(subject, "its force-command is empty", nil)
	case g.ForceCommand != "" && g.ForceCommand != forced:
		return g, invalidCertificate(subject, "its force-command differs from the one configured for its authority", nil)
	default:
		g.ForceCommand = forced
	}
	return g, nil
}

func describeCertificate(cert *ssh.Certificate) *Certificate {
	return &Certificate{
		KeyID: cert.KeyId, Serial: cert.Serial, CA: ssh.FingerprintSHA256(cert.SignatureKey),
		Principals: slices.Clone(cert.ValidPrincipals), ValidBefore: certTime(cert.ValidBefore),
	}
}
