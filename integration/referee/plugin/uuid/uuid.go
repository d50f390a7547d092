// Package uuid stands in for a package of this name that AWS's session-manager-plugin imports at a version nobody can download any more.
// It offers what the plugin uses of it and nothing else.
package uuid

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
)

// UUID is sixteen bytes. It is an interface because the plugin compares it with nil.
type UUID interface {
	Bytes() []byte
	String() string
}

type value [16]byte

// Format chooses how a UUID prints. There is one.
type Format string

// CleanHyphen is 8-4-4-4-12 hexadecimal digits without braces.
const CleanHyphen Format = "%x-%x-%x-%x-%x"

// SwitchFormat is here to be called: the only format is in force already.
func SwitchFormat(Format) {}

// New takes sixteen bytes; further ones are ignored.
func New(b []byte) UUID {
	var v value
	copy(v[:], b)
	return v
}

// NewV4 makes a random one (RFC 9562, 5.4).
func NewV4() UUID {
	var v value
	rand.Read(v[:]) // never fails, see crypto/rand
	v[6] = v[6]&0x0f | 0x40
	v[8] = v[8]&0x3f | 0x80
	return v
}

// Parse reads what String printed.
func Parse(s string) (UUID, error) {
	if len(s) != 36 || s[8] != '-' || s[13] != '-' || s[18] != '-' || s[23] != '-' {
		return nil, fmt.Errorf("uuid: %q is not 8-4-4-4-12 hexadecimal digits", s)
	}
	b, err := hex.DecodeString(s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:])
	if err != nil {
		return nil, fmt.Errorf("uuid: %q: %w", s, err)
	}
	return New(b), nil
}

func (v value) Bytes() []byte { return v[:] }

func (v value) String() string {
	return fmt.Sprintf(string(CleanHyphen), v[0:4], v[4:6], v[6:8], v[8:10], v[10:])
}
