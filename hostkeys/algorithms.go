package hostkeys

import (
	"context"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"
)

// plainAlgorithms are the signature algorithms of bare host keys, by the key type that signs, best first. x/crypto's own order puts ECDSA before Ed25519.
var plainAlgorithms = []struct {
	kind       string
	algorithms []string
}{
	{ssh.KeyAlgoED25519, []string{ssh.KeyAlgoED25519}},
	{ssh.KeyAlgoECDSA256, []string{ssh.KeyAlgoECDSA256}},
	{ssh.KeyAlgoECDSA384, []string{ssh.KeyAlgoECDSA384}},
	{ssh.KeyAlgoECDSA521, []string{ssh.KeyAlgoECDSA521}},
	{ssh.KeyAlgoRSA, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256}},
}

var certAlgorithms = []string{
	ssh.CertAlgoED25519v01, ssh.CertAlgoECDSA256v01, ssh.CertAlgoECDSA384v01, ssh.CertAlgoECDSA521v01, ssh.CertAlgoRSASHA512v01, ssh.CertAlgoRSASHA256v01,
}

// Algorithms gives what to negotiate as ssh.ClientConfig.HostKeyAlgorithms with the machine at place: certificates first where there is a CA to check
// them, then the types that are pinned, then the rest. The client's order decides, so a machine that has the pinned key shows it, and one that shows
// another has lost it.
func (v *Verifier) Algorithms(place string) []string {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	var pinned, rest []string
	pin, _ := v.Store.Get(ctx, place) // a store that does not answer costs the preference here; Check then refuses
	types := pin.Types()
	for _, plain := range plainAlgorithms {
		if slices.Contains(types, plain.kind) {
			pinned = append(pinned, plain.algorithms...)
		} else {
			rest = append(rest, plain.algorithms...)
		}
	}
	if len(v.HostCAs) > 0 {
		return slices.Concat(certAlgorithms, pinned, rest)
	}
	return append(pinned, rest...)
}
