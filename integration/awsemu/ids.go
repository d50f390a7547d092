package awsemu

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"strings"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// newUUID makes a random UUID, version 4.
func newUUID() ssmproto.UUID {
	var u ssmproto.UUID
	// crypto/rand.Read never fails; it ends the program rather than that.
	_, _ = rand.Read(u[:])
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// randomHex makes n hexadecimal digits.
func randomHex(n int) string {
	b := make([]byte, (n+1)/2)
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)[:n]
}

// randomSecret makes a bearer secret of 256 bits that says where it is from.
func randomSecret() string {
	b := make([]byte, 32)
	_, _ = rand.Read(b)
	return "EMULATOR" + base64.RawURLEncoding.EncodeToString(b)
}

// stableID derives an id from a name, so that it is the same in every run: EMULATOR and 13 characters.
func stableID(prefix, name string) string {
	sum := sha256.Sum256([]byte(name))
	return prefix + "EMULATOR" + strings.ToUpper(hex.EncodeToString(sum[:]))[:9]
}
