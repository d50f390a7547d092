package stripe

import (
	"bytes"
	"testing"
)

// TestLostWriteAndANewSize: scp sets the size when everything is written. A lost write within it may come late and does no harm; one behind it would make the
// file longer again.
func TestLostWriteAndANewSize(t *testing.T) {
	for name, test := range map[string]struct {
		cut  int // from the end
		good bool
	}{"as long as it is": {0, true}, "shorter than what was lost": {400 << 10, false}} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 2, openssh(), nil)
			h, sent := r.upload("f")
			want := append(sent, noise(400<<10)...)
			r.kill(100)
			for !r.count.died() {
				for _, p := range r.do(pieces(h, want, len(sent), 4<<10)...) {
					mustOK(t, p)
				}
			}
			size := len(want) - test.cut
			mustOK(t, r.one(func(id uint32) []byte { return newTruncate(id, h, uint64(size)) }))
			code, text := r.close(h)
			if good := code == statusOK; good != test.good {
				t.Errorf("close: %d %q", code, text)
			}
			if !bytes.Equal(r.content(t, "f"), want[:size]) {
				t.Error("the file on the server is not what was sent")
			}
			r.end()
		})
	}
}
