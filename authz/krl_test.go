package authz

import (
	"bytes"
	"encoding/binary"
	"math"
	"math/big"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
	"pgregory.net/rapid"
)

// A KRL put together by hand, for what ssh-keygen would never write.

func krlString(b []byte) []byte {
	return append(binary.BigEndian.AppendUint32(nil, uint32(len(b))), b...)
}

func krlHeader(format uint32) []byte {
	b := binary.BigEndian.AppendUint32(bytes.Clone(krlMagic), format)
	b = append(b, make([]byte, 24)...) // version, date, flags
	b = append(b, krlString(nil)...)
	return append(b, krlString([]byte("comment"))...)
}

func krlSection(kind byte, body ...[]byte) []byte {
	return append([]byte{kind}, krlString(bytes.Join(body, nil))...)
}

func krlOf(sections ...[]byte) []byte { return append(krlHeader(1), bytes.Join(sections, nil)...) }

func krlCerts(ca []byte, sections ...[]byte) []byte {
	return krlSection(krlCertificates, krlString(ca), krlString(nil), bytes.Join(sections, nil))
}

func u64(v uint64) []byte { return binary.BigEndian.AppendUint64(nil, v) }

func krlExtensionBody(critical byte) []byte {
	return bytes.Join([][]byte{krlString([]byte("new@example.org")), {critical}, krlString([]byte("contents"))}, nil)
}

func TestKRLErrors(t *testing.T) {
	for _, c := range []struct {
		name string
		blob []byte
		want string
	}{
		{"empty", nil, "not a key revocation list"},
		{"other magic", []byte("SSHKRL\n\x01"), "not a key revocation list"},
		{"format 2", krlHeader(2), "format 2"},
		{"unknown section", krlOf(krlSection(9)), "unknown section 9"},
		{"signed", krlOf(krlSection(krlSignature, []byte("x"))), "signed lists are not supported"},
		{"critical extension", krlOf(krlSection(krlExtension, krlExtensionBody(1))), `unknown critical extension "new@example.org"`},
		{"extension with a tail", krlOf(krlSection(krlExtension, krlExtensionBody(0), []byte{0})), "1 bytes too many"},
		{"short SHA-1", krlOf(krlSection(krlSHA1, krlString(make([]byte, 19)))), "fingerprint of 19 bytes, not 20"},
		{"long SHA-256", krlOf(krlSection(krlSHA256, krlString(make([]byte, 33)))), "fingerprint of 33 bytes, not 32"},
		{"unknown certificate section", krlOf(krlCerts(nil, krlSection(0x30))), "unknown certificate section 0x30"},
		{"critical certificate extension", krlOf(krlCerts(nil, krlSection(krlCertExtension, krlExtensionBody(1)))), "unknown critical extension"},
		{"serial 0", krlOf(krlCerts(nil, krlSection(krlSerialList, u64(0)))), "invalid serial range 0-0"},
		{"half a serial", krlOf(krlCerts(nil, krlSection(krlSerialList, u64(1)[:5]))), "cut short"},
		{"backward range", krlOf(krlCerts(nil, krlSection(krlSerialRange, u64(9), u64(8)))), "invalid serial range 9-8"},
		{"long range", krlOf(krlCerts(nil, krlSection(krlSerialRange, u64(8), u64(9), u64(1)))), "8 bytes too many"},
		{"negative bitmap", krlOf(krlCerts(nil, krlSection(krlSerialBitmap, u64(1), krlString([]byte{0x80})))), "negative serial bitmap"},
		{"bitmap with serial 0", krlOf(krlCerts(nil, krlSection(krlSerialBitmap, u64(0), krlString([]byte{1})))), "bitmap with serial 0"},
		{"bitmap overflow", krlOf(krlCerts(nil, krlSection(krlSerialBitmap, u64(math.MaxUint64), krlString([]byte{2})))), "beyond the last serial"},
		{"huge bitmap", krlOf(krlCerts(nil, krlSection(krlSerialBitmap, u64(1), krlString(make([]byte, maxKRLBitmap+1))))), "bitmap of 1048577 bytes"},
	} {
		krl, err := ParseKRL(c.blob)
		if krl != nil || err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v; want %q", c.name, err, c.want)
		}
	}
}

func TestKRLUnknownButHarmless(t *testing.T) {
	krl, err := ParseKRL(krlOf(krlSection(krlExtension, krlExtensionBody(0)), krlCerts(nil, krlSection(krlCertExtension, krlExtensionBody(0)))))
	if err != nil || krl.Comment != "comment" {
		t.Errorf("%+v, %v", krl, err)
	}
}

// richKRL has a section of every kind.
func richKRL() []byte {
	return krlOf(
		krlCerts([]byte("ca"), krlSection(krlSerialList, u64(3), u64(5)), krlSection(krlSerialRange, u64(8), u64(9)),
			krlSection(krlSerialBitmap, u64(100), krlString([]byte{0, 0xf0})), krlSection(krlKeyIDs, krlString([]byte("a")), krlString([]byte("b")))),
		krlSection(krlExplicitKeys, krlString([]byte("key"))), krlSection(krlSHA1, krlString(make([]byte, 20))),
		krlSection(krlSHA256, krlString(make([]byte, 32))), krlSection(krlExtension, krlExtensionBody(0)),
	)
}

// A list cut at any byte is refused, unless the cut is between two sections: PROTOCOL.krl has no end mark, so there it is a shorter list.
func TestKRLPrefixes(t *testing.T) {
	blob := richKRL()
	if _, err := ParseKRL(blob); err != nil {
		t.Fatal(err)
	}
	whole := map[int]bool{len(krlHeader(1)): true}
	for pos := len(krlHeader(1)); pos < len(blob); {
		pos += 5 + int(binary.BigEndian.Uint32(blob[pos+1:]))
		whole[pos] = true
	}
	for n := range blob {
		if _, err := ParseKRL(blob[:n]); (err == nil) != whole[n] {
			t.Errorf("cut to %d of %d bytes: %v", n, len(blob), err)
		}
	}
}

// A set of serials revokes the same whether written as a list, as ranges or as a bitmap, and nothing else.
func TestKRLSerialFormsAgree(t *testing.T) {
	ca, key := signer(t, "ed25519"), signer(t, "ed25519").PublicKey()
	cert := certificate(t, key, ca, nil)
	rapid.Check(t, func(t *rapid.T) {
		offset := rapid.Uint64Range(1, math.MaxUint64-200).Draw(t, "offset")
		marks := rapid.SliceOfDistinct(rapid.IntRange(0, 150), rapid.ID[int]).Draw(t, "marks")
		var list, ranges []byte
		bits := new(big.Int)
		in := map[uint64]bool{}
		for _, m := range marks {
			serial := offset + uint64(m)
			in[serial] = true
			list = append(list, u64(serial)...)
			ranges = append(ranges, krlSection(krlSerialRange, u64(serial), u64(serial))...)
			bits.SetBit(bits, m, 1)
		}
		number := append([]byte{0}, bits.Bytes()...)
		forms := map[string][]byte{
			"list": krlSection(krlSerialList, list), "ranges": ranges, "bitmap": krlSection(krlSerialBitmap, u64(offset), krlString(number)),
		}
		for name, section := range forms {
			krl, err := ParseKRL(krlOf(krlCerts(ca.PublicKey().Marshal(), section)))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			for probe := offset - 1; probe < offset+152; probe++ {
				cert.Serial = probe
				if krl.Revoked(cert) != in[probe] {
					t.Fatalf("%s: serial %d revoked is %v", name, probe, !in[probe])
				}
			}
		}
	})
}

func TestPlainRevocationList(t *testing.T) {
	a, b, c := signer(t, "ed25519"), signer(t, "ecdsa"), signer(t, "ed25519")
	list := "# gone\n\n" + keyText(a.PublicKey()) + " lost laptop\r\n  " + ssh.FingerprintSHA256(b.PublicKey()) + "  second\n"
	r := revocations{hashes: map[[32]byte]bool{}}
	if findings := r.add("revoked_keys[0]", []byte(list)); len(findings) > 0 {
		t.Fatal(findings)
	}
	for _, probe := range []struct {
		name string
		key  ssh.PublicKey
		want bool
	}{
		{"listed key", a.PublicKey(), true},
		{"listed fingerprint", b.PublicKey(), true},
		{"other key", c.PublicKey(), false},
		{"certificate on a listed key", certificate(t, a.PublicKey(), c, nil), true},
		{"certificate of a listed authority", certificate(t, c.PublicKey(), b, nil), true},
		{"other certificate", certificate(t, c.PublicKey(), c, nil), false},
	} {
		if got := r.revoked(probe.key); got != probe.want {
			t.Errorf("%s: %v", probe.name, got)
		}
	}
	for _, bad := range []string{"SHA256:short", "MD5:00", "hello", "restrict " + keyText(a.PublicKey())} {
		if findings := r.add("p", []byte("\n"+bad)); len(findings) != 1 || findings[0].Line != 2 {
			t.Errorf("%q: %v", bad, findings)
		}
	}
}

// Laws: no panic, nothing half read, the input untouched.
func FuzzParseKRL(f *testing.F) {
	f.Add(richKRL())
	f.Add(krlHeader(1))
	f.Add(krlOf(krlCerts(nil, krlSection(krlSerialBitmap, u64(math.MaxUint64), krlString([]byte{1})))))
	f.Add(krlOf(krlSection(krlSignature)))
	made, err := filepath.Glob("testdata/krl/*.krl") // by ssh-keygen -k, OpenSSH 9.2
	if err != nil || len(made) == 0 {
		f.Fatalf("no lists in testdata: %v", err)
	}
	for _, path := range made {
		f.Add(readFile(f, ".", path))
	}
	cert := certificate(f, signer(f, "ed25519").PublicKey(), signer(f, "ed25519"), nil)
	f.Fuzz(func(t *testing.T, blob []byte) {
		before := bytes.Clone(blob)
		krl, err := ParseKRL(blob)
		if (krl == nil) != (err != nil) {
			t.Fatalf("%v and %v", krl, err)
		}
		if !bytes.Equal(blob, before) {
			t.Fatal("the input was changed")
		}
		if err == nil {
			krl.Revoked(cert)
			krl.Revoked(cert.Key)
		}
	})
}
