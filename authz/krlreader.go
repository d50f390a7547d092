package authz

import (
	"encoding/binary"
	"errors"
	"fmt"
)

var errKRLShort = errors.New("cut short")

// krlReader takes SSH-encoded values (RFC 4251 §5) off the front of a buffer. After the first error every value is zero; nothing is copied and
// nothing allocated for a length that the buffer does not hold.
type krlReader struct {
	rest []byte
	err  error
}

// more reports whether there is something left to read.
func (r *krlReader) more() bool { return r.err == nil && len(r.rest) > 0 }

func (r *krlReader) take(n uint64) []byte {
	if r.err != nil || n > uint64(len(r.rest)) {
		if r.err == nil {
			r.err = errKRLShort
		}
		return nil
	}
	b := r.rest[:n:n]
	r.rest = r.rest[n:]
	return b
}

func (r *krlReader) byte() byte {
	if b := r.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (r *krlReader) uint32() uint32 {
	if b := r.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (r *krlReader) uint64() uint64 {
	if b := r.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// bytes reads a string: a length and as many bytes.
func (r *krlReader) bytes() []byte { return r.take(uint64(r.uint32())) }

// end is the error of a body that should be used up.
func (r *krlReader) end() error {
	if r.err == nil && len(r.rest) > 0 {
		r.err = fmt.Errorf("%d bytes too many", len(r.rest))
	}
	return r.err
}

// extension reads name, criticality and contents. None is known, so a critical one refuses the list.
func (r *krlReader) extension() error {
	name, critical := r.bytes(), r.byte()
	_ = r.bytes()
	if r.err == nil && critical != 0 {
		return fmt.Errorf("unknown critical extension %q", clip(string(name)))
	}
	return r.end()
}
