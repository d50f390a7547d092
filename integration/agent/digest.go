package agent

import (
	"crypto/sha256"
	"encoding/binary"
)

const (
	digestOffset  = 80 // SPEC.md §3.1
	lengthOfField = 4
)

// withDigest returns a copy of a frame, known to be long enough, with the digest that its payload has.
func withDigest(frame []byte) []byte {
	fixed := append([]byte(nil), frame...)
	payload := fixed[int(binary.BigEndian.Uint32(fixed))+lengthOfField:]
	sum := sha256.Sum256(payload)
	copy(fixed[digestOffset:], sum[:])
	return fixed
}
