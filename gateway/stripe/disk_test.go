package stripe

import (
	"bufio"
	"bytes"
	"io"
	"sync"
	"testing"
)

// fullDisk is OpenSSH's server on a disk that is full for the WRITEs of which full says so: it takes the first bytes of them, and fails.
func fullDisk(full func(off uint64) (took int, is bool)) server {
	const unasked = 1 << 31 // the id of what the proxy did not ask
	return func(t testing.TB, dir string) io.ReadWriteCloser {
		inner := process(t, dir, opensshServer, "-e")
		near, far := pipe(t)
		var both sync.WaitGroup
		both.Go(func() {
			defer inner.(interface{ CloseWrite() error }).CloseWrite()
			for requests := bufio.NewReader(far); ; {
				p, err := readPacket(requests)
				if err != nil {
					return
				}
				sent := p.bytes()
				if a, err := parseAccess(p.typ(), p.body()); p.typ() == typWrite && err == nil {
					if took, is := full(a.off); is {
						id, _ := p.id()
						sent = append(writeOf(a.handle, a.off, a.data[:took])(unasked), writeOf([]byte("none"), a.off, nil)(id)...)
					}
				}
				inner.Write(sent)
			}
		})
		both.Go(func() {
			defer far.Close()
			for answers := bufio.NewReader(inner); ; {
				p, err := readPacket(answers)
				if err != nil {
					return
				}
				if id, ok := p.id(); !ok || id != unasked {
					far.Write(p.bytes())
				}
			}
		})
		near.end = func() { both.Wait(); inner.Close() }
		return near
	}
}

// Several servers at work on one full disk fail at different places, and take a part of this WRITE or that. What is left looks as if one had been at work: the
// beginning, and if the client sets the size in spite of the failure, as scp does, zeros behind it.
func TestFullDiskForSeveralServers(t *testing.T) {
	const size, hole, end = 3000, 4<<10 + 10*3000, 4<<10 + 60*3000
	for name, took := range map[string]int{"some WRITEs behind are done": -1, "a part of those behind is done": size / 2} {
		for _, trims := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				r := newRig(t, 4, fullDisk(func(off uint64) (int, bool) {
					switch {
					case off == hole:
						return 0, true
					case off < hole || took < 0:
						return 0, false
					}
					return took, true
				}), nil)
				h, sent := r.upload("f")
				data := append(sent, noise(end-len(sent))...)
				want := bytes.Clone(data[:hole])
				failed := 0
				for _, p := range r.do(pieces(h, data, len(sent), size)...) {
					if code, _ := statusOf(t, p); code != statusOK {
						failed++
					}
				}
				if failed == 0 {
					t.Error("no write failed")
				}
				if trims {
					mustOK(t, r.one(trimTo(h, end)))
					want = append(want, make([]byte, end-hole)...)
				}
				if code, text := r.close(h); code != statusOK {
					t.Errorf("close: %d %s", code, text)
				}
				if got := r.content(t, "f"); !bytes.Equal(got, want) {
					t.Errorf("%d bytes are left, want %d: the beginning up to %d, and zeros", len(got), len(want), hole)
				}
				r.end()
			})
		}
	}
}
