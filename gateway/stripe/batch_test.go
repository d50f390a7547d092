package stripe

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
)

// batchRig is a proxy whose client has just copied two files into a directory, so that the OPEN of the next may be answered early.
func batchRig(t *testing.T, lanes int) (*rig, *middle) {
	t.Helper()
	m := inTheMiddle(openssh())
	r := newRig(t, lanes, m.start, func(_ *rig, cfg *Config) { cfg.fresh, cfg.Bulk = patience, 1<<20 })
	for i := range 2 {
		r.copyUp(t, fmt.Sprint("before", i), noise(100))
	}
	return r, m
}

// closing is the answer to the CLOSE of h, once it is there.
func (r *rig) closing(h []byte) <-chan string {
	closed := make(chan string, 1)
	go func() {
		defer close(closed)
		code, text := r.close(h)
		closed <- fmt.Sprint(code, text)
	}()
	return closed
}

const allWell = "0Success"

// The server answers nothing, and yet the client comes as far as the CLOSE of a file that it has not even opened there.
func TestAFileOfABatchTakesOneRoundTrip(t *testing.T) {
	r, m := batchRig(t, 1)
	want := noise(4 << 10)
	m.hold()
	h := r.open("file", openWrite|openCreate)
	mustOK(t, r.one(writeOf(h, 0, want)))
	mustOK(t, r.one(trimTo(h, uint64(len(want)))))
	closed := r.closing(h)
	if got, want := m.requested(4), string([]byte{typOpen, typWrite, typFsetstat, typClose}); got != want {
		t.Errorf("the server has been asked %v", []byte(got))
	}
	m.release()
	if said := <-closed; said != allWell {
		t.Errorf("close: %s", said)
	}
	if !bytes.Equal(r.content(t, "file"), want) {
		t.Error("the file differs")
	}
}

// An OPEN that fails is told of at the next request that is not answered early, and at CLOSE.
func TestAnOpenThatFails(t *testing.T) {
	refused := fmt.Sprintf("%dFailure", statusFailure)
	for name, meanwhile := range map[string]func(r *rig, h []byte, answer func()){
		"nothing": func(_ *rig, _ []byte, answer func()) { answer() },
		"a write": func(r *rig, h []byte, answer func()) {
			mustOK(t, r.one(writeOf(h, 0, noise(100))))
			answer()
		},
		"an upload": func(r *rig, h []byte, answer func()) {
			answer()
			r.do(pieces(h, noise(300<<10), 0, 32<<10)...)
		},
		"questions": func(r *rig, h []byte, answer func()) {
			answer()
			for _, ask := range []func(uint32) []byte{
				func(id uint32) []byte { return newOnHandle(typFstat, id, h) },
				func(id uint32) []byte {
					return finish(appendString(appendString(begin(nil, typExtended, id), []byte("fsync@openssh.com")), h))
				},
				writeOf(h, 0, noise(100)),
				readOf(h, 0, 100),
				trimTo(h, 0),
			} {
				if code, text := statusOf(t, r.one(ask)); fmt.Sprint(code, text) != refused {
					t.Errorf("%d %s", code, text)
				}
			}
		},
		"another file": func(r *rig, _ []byte, answer func()) {
			answer()
			other := r.open("other", openWrite|openCreate) // under the handle that was foretold for this one
			mustOK(t, r.one(writeOf(other, 0, []byte("other"))))
			if said := <-r.closing(other); said != allWell {
				t.Errorf("close of the other: %s", said)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := batchRig(t, 3)
			if err := os.Mkdir(filepath.Join(r.dir, "taken"), 0o755); err != nil {
				t.Fatal(err)
			}
			m.hold()
			h := r.open("taken", openWrite|openCreate)
			meanwhile(r, h, m.release)
			if said := <-r.closing(h); said != refused {
				t.Errorf("close: %s", said)
			}
			r.copyUp(t, "after", noise(200))
			if got := r.content(t, "after"); !bytes.Equal(got, noise(200)) {
				t.Error("the file after it differs")
			}
			if name == "another file" && string(r.content(t, "other")) != "other" {
				t.Error("the other file differs")
			}
		})
	}
}

// A server that gives another handle than was foretold, or does the WRITE before the OPEN, ends with the same file.
func TestBlindRequestsThatWereVain(t *testing.T) {
	var kept []byte
	for name, turn := range map[string]func(*packet) [][]byte{
		"another handle": func(pkt *packet) [][]byte {
			if pkt.typ() != typOpen {
				return [][]byte{pkt.bytes()}
			}
			return [][]byte{finish(appendString(begin(nil, typOpendir, unasked), []byte("."))), pkt.bytes()}
		},
		"the OPEN last": func(pkt *packet) [][]byte {
			switch pkt.typ() {
			case typOpen:
				kept = slices.Clone(pkt.bytes())
				return nil
			case typClose:
				return [][]byte{pkt.bytes(), kept}
			}
			return [][]byte{pkt.bytes()}
		},
	} {
		for _, taken := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, fails %v", name, taken), func(t *testing.T) {
				r, m := batchRig(t, 1)
				want, said := noise(5<<10), allWell
				if taken {
					said = fmt.Sprintf("%dFailure", statusFailure)
					if err := os.Mkdir(filepath.Join(r.dir, "file"), 0o755); err != nil {
						t.Fatal(err)
					}
				}
				m.turnInto(turn)
				m.hold()
				h := r.open("file", openWrite|openCreate)
				for _, piece := range pieces(h, want, 0, 3<<10) {
					mustOK(t, r.one(piece))
				}
				mustOK(t, r.one(trimTo(h, uint64(len(want)))))
				closed := r.closing(h)
				m.requested(5)
				m.turnInto(nil)
				m.release()
				if got := <-closed; got != said {
					t.Errorf("close: %s", got)
				}
				if !taken && !bytes.Equal(r.content(t, "file"), want) {
					t.Error("the file differs")
				}
			})
		}
	}
}

// A large file under a handle of ours is striped like any other, and its handle is understood wherever it stands in a request.
func TestALargeFileOfABatch(t *testing.T) {
	r, _ := batchRig(t, 3)
	h := r.open("file", openWrite|openCreate)
	want := noise(8 << 20)
	for _, p := range r.do(pieces(h, want, 0, 32<<10)...) {
		mustOK(t, p)
	}
	sync := func(id uint32) []byte {
		return finish(appendString(appendString(begin(nil, typExtended, id), []byte("fsync@openssh.com")), h))
	}
	mustOK(t, r.one(sync))
	within := func(id uint32) []byte { // from a file of the server's own handle to this one
		from := r.open("before0", openRead)
		b := appendString(appendString(begin(nil, typExtended, id), []byte("copy-data")), from)
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, 0), 100)
		return finish(binary.BigEndian.AppendUint64(appendString(b, h), uint64(len(want))))
	}
	request := within(77)
	mustOK(t, r.one(func(id uint32) []byte { binary.BigEndian.PutUint32(request[5:], id); return request }))
	if said := <-r.closing(h); said != allWell {
		t.Errorf("close: %s", said)
	}
	if !bytes.Equal(r.content(t, "file"), append(want, noise(100)...)) {
		t.Error("the file differs")
	}
	if r.count.striped() == 0 {
		t.Error("it was not striped")
	}
}

// Whoever does not copy one file after the other into one directory waits for each OPEN.
func TestOpensThatAreNotAnsweredEarly(t *testing.T) {
	up := uint32(openWrite | openCreate)
	nothing := func(*rig) {}
	for name, c := range map[string]struct {
		before func(*rig)
		path   string
		flags  uint32
	}{
		"must not be there":   {nothing, "dir", up | openExcl},
		"for appending":       {nothing, "dir", up | openAppend},
		"for reading as well": {nothing, "dir", up | openRead},
		"only if it is there": {nothing, "dir", openWrite},
		"with other flags":    {nothing, "dir", up | openTrunc},
		"another directory":   {nothing, "dir/sub", up},
		"something between":   {func(r *rig) { r.one(named(typStat, ".")).release() }, "dir", up},
		"another between": {func(r *rig) {
			h := r.open("before0", openRead)
			r.close(h)
		}, "dir", up},
		"a question about the file before": {func(r *rig) {
			h := r.open("before2", up)
			r.one(func(id uint32) []byte { return newOnHandle(typFstat, id, h) }).release()
			r.one(named(typStat, "before2")).release()
			r.close(h)
		}, "dir", up},
		"the one before could not be closed": {func(r *rig) {
			h := r.open("before2", up)
			mustOK(t, r.one(writeOf(h, 0, noise(10))))
			r.close(append(h[:len(h):len(h)], 'x'))
		}, "dir", up},
	} {
		t.Run(name, func(t *testing.T) {
			r, _ := batchRig(t, 1)
			if err := os.MkdirAll(filepath.Join(r.dir, "dir/sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			c.before(r)
			p := r.one(func(id uint32) []byte { return newOpen(id, []byte(c.path), c.flags) })
			if code, _ := statusOf(t, p); code == statusOK {
				t.Error("the OPEN of a directory succeeded")
			}
		})
	}
}

// OpenSSH's scp says which file it could not write, fails, and writes the others.
func TestSCPOfABatchWithAFileThatCannotBeWritten(t *testing.T) {
	self := needPrograms(t)
	far, near := filepath.Join(t.TempDir(), "far"), t.TempDir()
	taken := filepath.Join(far, "tree/7")
	for _, dir := range []string{taken, filepath.Join(near, "tree")} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 10 {
		if err := os.WriteFile(filepath.Join(near, "tree", fmt.Sprint(i)), noise(100*i+1), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("scp", "-q", "-r", "-D", self, filepath.Join(near, "tree"), "host:.")
	cmd.Env = append(os.Environ(), proxyFor+"="+far)
	out, err := cmd.CombinedOutput()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 1 || !bytes.Contains(out, []byte("Failure")) {
		t.Errorf("scp: %v: %s", err, out)
	}
	t.Logf("it said: %s", out)
	for i := range 10 {
		if i == 7 {
			continue
		}
		if b, err := os.ReadFile(filepath.Join(far, "tree", fmt.Sprint(i))); err != nil || !bytes.Equal(b, noise(100*i+1)) {
			t.Errorf("file %d: %v", i, err)
		}
	}
	if left, err := os.ReadDir(taken); err != nil || len(left) > 0 {
		t.Errorf("in the directory that was in the way: %v, %v", left, err)
	}
}
