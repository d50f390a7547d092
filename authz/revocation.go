package authz

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"strings"

	"golang.org/x/crypto/ssh"
)

// revocations is all revocation lists together.
type revocations struct {
	krls   []*KRL
	hashes map[[sha256.Size]byte]bool // of key blobs, from plain lists
}

// add reads one list: a KRL if it begins like one, else plain text. An empty text revokes nothing.
func (r *revocations) add(path string, blob []byte) []*Finding {
	if bytes.HasPrefix(blob, krlMagic) {
		krl, err := ParseKRL(blob)
		if err != nil {
			return []*Finding{{Path: path, Message: err.Error()}}
		}
		r.krls = append(r.krls, krl)
		return nil
	}
	return r.addPlain(path, string(blob))
}

// addPlain reads a list of public keys, as sshd's RevokedKeys has them, or SHA256 fingerprints, one each line. Comments and empty lines are left
// out; anything else is a finding.
func (r *revocations) addPlain(path, text string) []*Finding {
	var findings []*Finding
	for i, line := range strings.Split(text, "\n") {
		line = strings.Trim(line, " \t\r")
		if line == "" || line[0] == '#' {
			continue
		}
		hash, message := revokedHash(line)
		if message != "" {
			findings = append(findings, &Finding{Path: path, Line: i + 1, Message: message})
			continue
		}
		r.hashes[hash] = true
	}
	return findings
}

// revokedHash reads one line; message says what is wrong with it.
func revokedHash(line string) (hash [sha256.Size]byte, message string) {
	field, _ := cutField(line)
	if encoded, isPrint := strings.CutPrefix(field, "SHA256:"); isPrint {
		raw, err := base64.RawStdEncoding.DecodeString(encoded)
		if err != nil || len(raw) != sha256.Size {
			return hash, "not a SHA256 fingerprint"
		}
		return [sha256.Size]byte(raw), ""
	}
	key, _, err := parsePlainKey(line)
	if err != nil {
		return hash, "neither a public key nor a SHA256 fingerprint: " + err.Error()
	}
	return sha256.Sum256(key.Marshal()), ""
}

// revoked reports whether any list revokes a key or certificate, a certificate also through its key or its authority.
func (r *revocations) revoked(key ssh.PublicKey) bool {
	for _, krl := range r.krls {
		if krl.Revoked(key) {
			return true
		}
	}
	if cert, isCert := key.(*ssh.Certificate); isCert {
		return r.hashes[sha256.Sum256(cert.Key.Marshal())] || r.hashes[sha256.Sum256(cert.SignatureKey.Marshal())]
	}
	return r.hashes[sha256.Sum256(key.Marshal())]
}
