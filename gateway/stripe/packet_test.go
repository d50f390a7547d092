package stripe

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"testing"
)

func FuzzPackets(f *testing.F) {
	var some []byte
	some = append(some, newInit()...)
	some = append(some, newOpen(1, []byte("dir/file"), openWrite|openCreate)...)
	some = append(some, writeOf([]byte{0, 0, 0, 1}, 1<<33, []byte("data"))(2)...)
	some = append(some, appendRead(nil, 3, []byte("h"), 0, 32<<10)...)
	some = append(some, newTruncate(4, []byte("h"), 7)...)
	some = append(some, newStatus(5, statusFailure, "no")...)
	f.Add(some)
	f.Fuzz(func(t *testing.T, in []byte) {
		was := bytes.Clone(in)
		r := bufio.NewReader(bytes.NewReader(in))
		var out []byte
		for {
			p, err := readPacket(r)
			if err != nil {
				if errors.Is(err, io.EOF) && len(out) != len(in) {
					t.Fatalf("a clean end %d bytes early", len(in)-len(out))
				}
				break
			}
			out = append(out, p.bytes()...)
			readBody(t, p)
			p.release()
		}
		if !bytes.HasPrefix(in, out) || !bytes.Equal(in, was) {
			t.Fatal("what was read is not what was there")
		}
	})
}

// readBody parses p as everything it could be. What parses as an access must come out of the append functions again.
func readBody(t *testing.T, p *packet) {
	id, ok := p.id()
	if !ok {
		return
	}
	body := p.body()
	parseOpen(body)
	parseStatus(body)
	parseView(body)
	parseString(body)
	setsSize(body)
	(&Proxy{files: map[string]*file{}}).classify(p)
	if a, err := parseAccess(p.typ(), body); err == nil && p.typ() == typRead {
		if again := appendRead(nil, id, a.handle, a.off, a.n); !bytes.HasPrefix(p.bytes()[prefix:], again[prefix:]) {
			t.Fatalf("READ %x came out as %x", p.bytes(), again)
		}
	}
	if a, err := parseAccess(p.typ(), body); err == nil && p.typ() == typWrite && len(a.handle) <= maxHandle {
		came := bytes.Clone(p.bytes()[prefix:])
		p.trim(len(a.handle), int(a.n))
		if !bytes.HasPrefix(came, p.bytes()[prefix:]) || !bytes.HasSuffix(p.bytes(), a.data) {
			t.Fatalf("WRITE %x was cut to %x", came, p.bytes())
		}
		was := bytes.Clone(p.bytes())
		handle := bytes.Clone(a.handle)
		p.hold()
		q := p.readdress(id+1, append([]byte("longer"), handle...)[:min(len(handle)+6, maxHandle)], a.off, int(a.n))
		if q == p || !bytes.Equal(p.bytes(), was) {
			t.Fatal("a packet that somebody else holds was changed")
		}
		if back := q.readdress(id, handle, a.off, int(a.n)); !bytes.Equal(back.bytes(), was) {
			t.Fatalf("WRITE %x came back as %x", was, back.bytes())
		}
	}
}

func TestEveryPrefixIsAnUnexpectedEnd(t *testing.T) {
	whole := writeOf([]byte("handle"), 9, []byte("data"))(7)
	for n := 1; n < len(whole); n++ {
		if _, err := readPacket(bufio.NewReader(bytes.NewReader(whole[:n]))); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("after %d bytes: %v", n, err)
		}
	}
}

func TestPacketLengths(t *testing.T) {
	for _, n := range []uint32{0, maxPacket + 1, 1 << 31, 1<<32 - 1} {
		in := binary.BigEndian.AppendUint32(nil, n)
		if _, err := readPacket(bufio.NewReader(bytes.NewReader(in))); !errors.Is(err, ErrPacket) {
			t.Errorf("length %d: %v", n, err)
		}
	}
}

func TestAccessThatPassesTheEndOfNumbers(t *testing.T) {
	p := made(appendRead(nil, 1, []byte("h"), 1<<64-2, 3))
	if _, err := parseAccess(typRead, p.body()); err == nil {
		t.Error("a range past 64 bits was accepted")
	}
}
