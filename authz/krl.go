package authz

import (
	"bytes"
	"crypto/sha1" //nolint:gosec // a KRL may name keys by SHA-1; nothing is trusted for it, only refused
	"crypto/sha256"
	"errors"
	"fmt"
	"math"
	"math/big"
	"slices"

	"golang.org/x/crypto/ssh"
)

// krlMagic opens a key revocation list (OpenSSH PROTOCOL.krl).
var krlMagic = []byte("SSHKRL\n\x00")

// The section types of PROTOCOL.krl; for certificate sections, the types within.
const (
	krlCertificates = 1
	krlExplicitKeys = 2
	krlSHA1         = 3
	krlSignature    = 4
	krlSHA256       = 5
	krlExtension    = 255

	krlSerialList    = 0x20
	krlSerialRange   = 0x21
	krlSerialBitmap  = 0x22
	krlKeyIDs        = 0x23
	krlCertExtension = 0x39
)

// maxKRLBitmap bounds a serial bitmap, in bytes: the largest number OpenSSH reads (SSHBUF_MAX_BIGNUM) is far below.
const maxKRLBitmap = 1 << 20

// KRL is an OpenSSH key revocation list. It is immutable.
type KRL struct {
	Version uint64 // as its maker counts
	Comment string // free text

	keys   map[string]bool // key blobs
	sha1   map[[sha1.Size]byte]bool
	sha256 map[[sha256.Size]byte]bool
	certs  []krlAuthority
}

// krlAuthority is what is revoked of one authority's certificates.
type krlAuthority struct {
	ca      []byte // key blob; empty: of any authority
	ranges  []serialRange
	bitmaps []serialBitmap
	keyIDs  map[string]bool
}

type serialRange struct{ lo, hi uint64 } // inclusive

type serialBitmap struct {
	offset uint64
	bits   *big.Int // bit n: serial offset+n
}

// ParseKRL reads a KRL. What is cut short, of another version, signed (OpenSSH itself refuses those since 9.4), or has a section or critical
// extension we do not know is an error: a list half understood would let somebody in.
func ParseKRL(blob []byte) (*KRL, error) {
	k := &KRL{keys: map[string]bool{}, sha1: map[[sha1.Size]byte]bool{}, sha256: map[[sha256.Size]byte]bool{}}
	rest, found := bytes.CutPrefix(blob, krlMagic)
	if !found {
		return nil, errors.New("not a key revocation list")
	}
	r := &krlReader{rest: rest}
	format := r.uint32()
	k.Version = r.uint64()
	_, _ = r.uint64(), r.uint64() // date made, flags: no meaning for a reader
	_ = r.bytes()                 // reserved
	k.Comment = string(r.bytes())
	if r.err == nil && format != 1 {
		return nil, fmt.Errorf("key revocation list of format %d, not 1", format)
	}
	for r.err == nil && len(r.rest) > 0 {
		kind := r.byte()
		body := &krlReader{rest: r.bytes()}
		if r.err == nil {
			r.err = k.section(kind, body)
		}
	}
	if r.err != nil {
		return nil, fmt.Errorf("read key revocation list: %w", r.err)
	}
	return k, nil
}

// section reads one section.
func (k *KRL) section(kind byte, body *krlReader) error {
	switch kind {
	case krlCertificates:
		return k.certificateSection(body)
	case krlExplicitKeys:
		for body.more() {
			k.keys[string(body.bytes())] = true
		}
	case krlSHA1:
		for body.more() {
			readHash(body, func(h []byte) { k.sha1[[sha1.Size]byte(h)] = true }, sha1.Size)
		}
	case krlSHA256:
		for body.more() {
			readHash(body, func(h []byte) { k.sha256[[sha256.Size]byte(h)] = true }, sha256.Size)
		}
	case krlExtension:
		return body.extension()
	case krlSignature:
		return errors.New("signed lists are not supported")
	default:
		return fmt.Errorf("unknown section %d", kind)
	}
	return body.err
}

func readHash(r *krlReader, add func([]byte), size int) {
	h := r.bytes()
	if r.err == nil && len(h) != size {
		r.err = fmt.Errorf("a fingerprint of %d bytes, not %d", len(h), size)
	}
	if r.err == nil {
		add(h)
	}
}

// certificateSection reads what is revoked of one authority's certificates.
func (k *KRL) certificateSection(r *krlReader) error {
	a := krlAuthority{ca: r.bytes(), keyIDs: map[string]bool{}}
	_ = r.bytes() // reserved
	for r.more() {
		kind := r.byte()
		body := &krlReader{rest: r.bytes()}
		if r.err == nil {
			r.err = a.subsection(kind, body)
		}
	}
	k.certs = append(k.certs, a)
	return r.err
}

func (a *krlAuthority) subsection(kind byte, body *krlReader) error {
	switch kind {
	case krlSerialList:
		for body.more() {
			serial := body.uint64()
			a.addRange(body, serial, serial)
		}
	case krlSerialRange:
		lo, hi := body.uint64(), body.uint64()
		a.addRange(body, lo, hi)
		return body.end()
	case krlSerialBitmap:
		offset, number := body.uint64(), body.bytes()
		a.addBitmap(body, offset, number)
		return body.end()
	case krlKeyIDs:
		for body.more() {
			a.keyIDs[string(body.bytes())] = true
		}
	case krlCertExtension:
		return body.extension()
	default:
		return fmt.Errorf("unknown certificate section %#x", kind)
	}
	return body.err
}

// addRange takes in a range. Serial 0 means "no serial" in a certificate and cannot be revoked; OpenSSH calls such a list invalid too.
func (a *krlAuthority) addRange(r *krlReader, lo, hi uint64) {
	if r.err != nil {
		return
	}
	if lo == 0 || lo > hi {
		r.err = fmt.Errorf("invalid serial range %d-%d", lo, hi)
		return
	}
	a.ranges = append(a.ranges, serialRange{lo, hi})
}

func (a *krlAuthority) addBitmap(r *krlReader, offset uint64, number []byte) {
	if r.err != nil {
		return
	}
	bits := new(big.Int).SetBytes(number)
	switch {
	case len(number) > maxKRLBitmap:
		r.err = fmt.Errorf("a serial bitmap of %d bytes", len(number))
	case len(number) > 0 && number[0]&0x80 != 0:
		r.err = errors.New("a negative serial bitmap")
	case bits.Sign() > 0 && uint64(bits.BitLen()-1) > math.MaxUint64-offset:
		r.err = errors.New("a serial bitmap beyond the last serial")
	case offset == 0 && bits.Bit(0) == 1:
		r.err = errors.New("a serial bitmap with serial 0")
	default:
		a.bitmaps = append(a.bitmaps, serialBitmap{offset, bits})
	}
}

// Revoked reports whether the list revokes a key or a certificate: a certificate also through its key or its authority's key.
func (k *KRL) Revoked(key ssh.PublicKey) bool {
	cert, isCert := key.(*ssh.Certificate)
	if !isCert {
		return k.keyRevoked(key.Marshal())
	}
	return k.keyRevoked(cert.Key.Marshal()) || k.keyRevoked(cert.SignatureKey.Marshal()) ||
		slices.ContainsFunc(k.certs, func(a krlAuthority) bool { return a.revokes(cert) })
}

func (k *KRL) keyRevoked(blob []byte) bool {
	return k.keys[string(blob)] || k.sha256[sha256.Sum256(blob)] || k.sha1[sha1.Sum(blob)] //nolint:gosec // see the import
}

func (a *krlAuthority) revokes(cert *ssh.Certificate) bool {
	if len(a.ca) > 0 && !bytes.Equal(a.ca, cert.SignatureKey.Marshal()) {
		return false
	}
	if a.keyIDs[cert.KeyId] {
		return true
	}
	// Serial 0, which is no serial, is in none of these: the parser saw to it.
	return slices.ContainsFunc(a.ranges, func(r serialRange) bool { return r.lo <= cert.Serial && cert.Serial <= r.hi }) ||
		slices.ContainsFunc(a.bitmaps, func(b serialBitmap) bool { return b.has(cert.Serial) })
}

func (b serialBitmap) has(serial uint64) bool {
	n := serial - b.offset
	return serial >= b.offset && n < uint64(b.bits.BitLen()) && b.bits.Bit(int(n)) == 1
}
