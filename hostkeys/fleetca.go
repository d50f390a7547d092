package hostkeys

import (
	"bytes"
	"errors"
	"fmt"
	"path"
	"slices"

	"golang.org/x/crypto/ssh"
)

// trusted reports whether ca is one of the CAs for machines, by the whole key.
func (v *Verifier) trusted(ca ssh.PublicKey) bool {
	return slices.ContainsFunc(v.HostCAs, func(have ssh.PublicKey) bool { return bytes.Equal(have.Marshal(), ca.Marshal()) })
}

// checkCertificate judges a certificate of a trusted CA. What it certifies wrongly is refused and not looked up as a bare key: OpenSSH does the same,
// and whoever runs a CA for the fleet wants to hear of it. A good one outweighs a pin: that is how a rebuilt machine is believed again.
func (v *Verifier) checkCertificate(place string, names []string, cert *ssh.Certificate) (Belief, error) {
	if err := v.certificateFault(append([]string{path.Base(place)}, names...), cert); err != nil {
		return "", unknown(place, fmt.Sprintf("its host certificate %.128q is not good: %v", cert.KeyId, err), err)
	}
	return BelievedCA, nil
}

// caSignatures are the algorithms a CA may have signed with: what OpenSSH's CASignatureAlgorithms allows, security keys aside.
var caSignatures = []string{
	ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256,
}

// certificateFault adds to x/crypto's checker what it leaves out: it takes a certificate without principals as good for every name, and a CA's signature
// with SHA-1 as good as any.
func (v *Verifier) certificateFault(names []string, cert *ssh.Certificate) error {
	if cert.CertType != ssh.HostCert {
		return errors.New("it is not for a host")
	}
	if len(cert.ValidPrincipals) == 0 {
		return errors.New("it names no machine")
	}
	if format := cert.Signature.Format; !slices.Contains(caSignatures, format) {
		return fmt.Errorf("its CA signed with %s", format)
	}
	if bits := rsaBits(cert.Key); bits != 0 && bits < minMachineRSABits {
		return fmt.Errorf("its key is RSA of %d bits", bits)
	}
	if len(cert.CriticalOptions) > 0 {
		return errors.New("it has critical options, and there are none for hosts")
	}
	var first error
	for _, name := range names {
		checker := ssh.CertChecker{}
		err := checker.CheckCert(name, cert)
		if err == nil {
			return nil
		}
		if first == nil {
			first = err
		}
	}
	return first
}
