package authz

import (
	"crypto/rsa"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// minRSABits is the least RSA key size where the configuration names none. sshd's RequiredRSASize of 1024 is too little today.
const minRSABits = 2048

// keyLine is one line of authorized_keys (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
type keyLine struct {
	key           ssh.PublicKey
	comment       string
	certAuthority bool
	principals    []string  // with certAuthority: only certificates naming one of these; nil: no narrowing
	from          *fromList // nil: from anywhere
	expiry        time.Time // zero: never
	touchWaived   bool      // no-touch-required
	grants        ChannelGrants
}

// parseKeyLines reads authorized_keys text line by line, empty lines and comments left out. One bad line does not hide the next: the findings
// have their place, and an invalid line never gives a key, since a skipped option would be a right too many.
func parseKeyLines(path, text string, rsaBits int) ([]*keyLine, []*Finding) {
	var lines []*keyLine
	var findings []*Finding
	for i, raw := range strings.Split(text, "\n") {
		raw = strings.TrimSuffix(raw, "\r")
		body := strings.TrimLeft(raw, " \t")
		if body == "" || body[0] == '#' {
			continue
		}
		line, col, err := parseKeyLine(body, rsaBits)
		if err != nil {
			findings = append(findings, &Finding{Path: path, Line: i + 1, Col: len(raw) - len(body) + col, Message: err.Error()})
			continue
		}
		lines = append(lines, line)
	}
	return lines, findings
}

// parseAuthorityLines reads a list of authorities, where cert-authority goes without saying.
func parseAuthorityLines(path, text string, rsaBits int) ([]*keyLine, []*Finding) {
	lines, findings := parseKeyLines(path, text, rsaBits)
	for _, line := range lines {
		line.certAuthority = true
	}
	return lines, findings
}

// parseKeyLine reads one line. On error it also gives the column, 1-based, of what is wrong.
func parseKeyLine(line string, rsaBits int) (*keyLine, int, error) {
	k := &keyLine{grants: allGrants()}
	start := 0
	if first, _ := cutField(line); !keyTypes[first] {
		end, col, err := k.parseOptions(line)
		if err != nil {
			return nil, col, err
		}
		start = end + len(line[end:]) - len(strings.TrimLeft(line[end:], " \t"))
	}
	key, comment, err := parsePlainKey(line[start:])
	if err != nil {
		return nil, start + 1, err
	}
	if err := acceptKey(key, rsaBits); err != nil {
		return nil, start + 1, err
	}
	k.key, k.comment = key, comment
	return k, 0, nil
}

// keyTypes are the key types that may stand in a line. Certificates may not: they are believed through their authority.
var keyTypes = map[string]bool{
	ssh.KeyAlgoRSA: true, ssh.KeyAlgoED25519: true, ssh.KeyAlgoECDSA256: true, ssh.KeyAlgoECDSA384: true, ssh.KeyAlgoECDSA521: true,
	ssh.KeyAlgoSKED25519: true, ssh.KeyAlgoSKECDSA256: true,
}

// parsePlainKey reads `type base64 comment`. The declared type must be the key's own, as in sshd: else an option could pass for a type.
func parsePlainKey(s string) (ssh.PublicKey, string, error) {
	declared, rest := cutField(s)
	encoded, comment := cutField(rest)
	if declared == "" {
		return nil, "", fmt.Errorf("options without a key")
	}
	if strings.Contains(declared, "-cert-v01@") {
		return nil, "", fmt.Errorf("a certificate is not listed itself: list its authority with cert-authority")
	}
	if !keyTypes[declared] {
		return nil, "", fmt.Errorf("unsupported key type %q", clip(declared))
	}
	blob, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, "", fmt.Errorf("the key is not base64")
	}
	key, err := ssh.ParsePublicKey(blob)
	if err != nil {
		return nil, "", fmt.Errorf("the key does not parse")
	}
	if key.Type() != declared {
		return nil, "", fmt.Errorf("the line says %s but the key is %s", declared, key.Type())
	}
	return key, comment, nil
}

// acceptKey refuses keys of kinds we do not believe: weak RSA, DSA, and FIDO keys made for something else than SSH. x/crypto verifies any
// application string, and a web site's credential must not open a machine.
func acceptKey(key ssh.PublicKey, rsaBits int) error {
	if !keyTypes[key.Type()] {
		return fmt.Errorf("unsupported key type %q", clip(key.Type()))
	}
	switch key.Type() {
	case ssh.KeyAlgoRSA:
		if ck, ok := key.(ssh.CryptoPublicKey); ok {
			if pub, ok := ck.CryptoPublicKey().(*rsa.PublicKey); ok && pub.N.BitLen() >= rsaBits {
				return nil
			}
		}
		return fmt.Errorf("RSA keys need at least %d bits", rsaBits)
	case ssh.KeyAlgoSKED25519, ssh.KeyAlgoSKECDSA256:
		if app := skApplication(key); !strings.HasPrefix(app, "ssh:") {
			return fmt.Errorf("a security key made for %q: the application must begin with \"ssh:\"", clip(app))
		}
	}
	return nil
}

// skApplication gives the application of a FIDO key: the last string of its blob (OpenSSH PROTOCOL.u2f), which x/crypto does not export.
func skApplication(key ssh.PublicKey) string {
	var last []byte
	for rest := key.Marshal(); len(rest) >= 4; {
		n := binary.BigEndian.Uint32(rest)
		if uint64(n) > uint64(len(rest)-4) {
			return ""
		}
		last, rest = rest[4:4+n], rest[4+n:]
	}
	return string(last)
}

// cutField cuts at the first run of blanks.
func cutField(s string) (field, rest string) {
	i := strings.IndexAny(s, " \t")
	if i < 0 {
		return s, ""
	}
	return s[:i], strings.Trim(s[i:], " \t")
}
