package stripe

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// newPair is a rig of two lanes that can be looked at and held, of which the further one gets the next file that is opened.
func newPair(t *testing.T) (r *rig, first, further *middle) {
	t.Helper()
	first, further = inTheMiddle(openssh()), inTheMiddle(openssh())
	r = newRig(t, 2, first.start, func(r *rig, cfg *Config) {
		cfg.eager, cfg.Bulk = true, 64<<10
		cfg.Open = func(context.Context) (io.ReadWriteCloser, error) {
			return r.furtherLane(further.start(t, r.dir)), nil
		}
	})
	r.open("keeps the first lane busy", openWrite|openCreate)
	r.until(func() bool { return r.news.vouched.Load() == 1 })
	return r, first, further
}

// cut ends the further lanes.
func (r *rig) cut() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lanes {
		l.Close()
	}
	r.lanes = nil
}

func extended(name string, args ...string) func(uint32) []byte {
	return func(id uint32) []byte {
		b := appendString(begin(nil, typExtended, id), []byte(name))
		for _, a := range args {
			b = appendString(b, []byte(a))
		}
		return finish(b)
	}
}

// A server may say only at CLOSE that what was written is not on the disk. It says so to who wrote it: the lane that the file has left.
func TestCloseThatFailsWhereAFileWas(t *testing.T) {
	r, _, further := newPair(t)
	h := r.open("f", openWrite|openCreate|openTrunc)
	mustOK(t, r.one(writeOf(h, 0, noise(1000))))
	further.spoilNth(typClose, 0)
	if p := r.one(extended("fstatvfs@openssh.com", string(h))); p.typ() != typExtended+1 {
		t.Fatalf("answered with type %d: %s", p.typ(), refusal(p))
	}
	if code, text := r.close(h); code == statusOK || !strings.Contains(text, "could not be closed") {
		t.Errorf("CLOSE: %d %q", code, text)
	}
	if r.placed(t) == 0 {
		t.Error("no file was placed")
	}
}

// A name that is given to another file, which looks the same, while the first lane is about to open it.
func TestNameTakenWhileAFileComesHome(t *testing.T) {
	r, _, further := newPair(t)
	const size = 128 << 10
	h := r.open("f", openWrite|openCreate|openTrunc)
	data := noise(size)
	mustOK(t, r.one(writeOf(h, 0, data[:32<<10])))
	r.until(func() bool { return strings.Count(further.requested(0), string([]byte{typFstat})) == 1 })
	then := time.Now().Add(-time.Hour)
	if err := os.WriteFile(filepath.Join(r.dir, "g"), bytes.Repeat([]byte("g"), size), 0o644); err != nil {
		t.Fatal(err)
	}
	comes := make(chan struct{})
	further.turnInto(func(pkt *packet) [][]byte { // called with further locked
		if pkt.typ() == typFstat {
			for _, name := range []string{"f", "g"} {
				if err := os.Chtimes(filepath.Join(r.dir, name), then, then); err != nil {
					t.Error(err)
				}
			}
			further.turn, further.held = nil, make(chan struct{})
			close(comes)
		}
		return [][]byte{pkt.bytes()}
	})
	mustOK(t, r.one(writeOf(h, 32<<10, data[32<<10:])))
	<-comes
	mustOK(t, r.one(extended("posix-rename@openssh.com", "g", "f")))
	further.release()
	mustOK(t, r.one(writeOf(h, 0, []byte("not g"))))
	r.close(h)
	if got := r.content(t, "f"); !bytes.Equal(got, bytes.Repeat([]byte("g"), size)) {
		t.Errorf("f, which was g, begins with %q", got[:10])
	}
	if r.placed(t) == 0 {
		t.Error("no file was placed")
	}
}

// What is not a regular file is not opened again: that may take for ever, or do something.
func TestIrregularFileWhoseLaneIsLost(t *testing.T) {
	r, first, _ := newPair(t)
	if err := os.Mkdir(filepath.Join(r.dir, "dir"), 0o755); err != nil {
		t.Fatal(err)
	}
	h := r.open("dir", openRead)
	r.one(readOf(h, 0, 100)).release()
	first.count()
	r.cut()
	if code, text := statusOf(t, r.one(readOf(h, 0, 100))); code == statusOK || !strings.Contains(text, "a lane was lost") {
		t.Errorf("READ: %d %q", code, text)
	}
	if asked := first.requested(1); strings.ContainsRune(asked, typOpen) {
		t.Errorf("the first lane was asked %v", []byte(asked))
	}
	r.close(h)
	if r.placed(t) == 0 {
		t.Error("no file was placed")
	}
}

// The answer to a STAT that counts on an OPEN is from before that OPEN was done again, on whatever lane it was lost.
func TestStatBehindAnOpenThatIsLost(t *testing.T) {
	r, first, further := newPair(t)
	if err := os.WriteFile(filepath.Join(r.dir, "a"), noise(1000), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(r.dir, "a"), filepath.Join(r.dir, "hard")); err != nil {
		t.Fatal(err)
	}
	further.hold()
	first.count()
	r.write(append(newOpen(r.id, []byte("a"), openWrite|openCreate|openTrunc), newNamed(typStat, r.id+1, []byte("hard"))...))
	further.requested(1)
	first.requested(1)
	r.cut()
	for range 2 {
		p := r.read()
		if p.typ() != typAttrs {
			continue
		}
		if v, err := parseView(p.body()); err != nil || v.size != 0 {
			t.Errorf("STAT behind an OPEN that empties the file: %d bytes, %v", v.size, err)
		}
	}
	r.id += 2
	if err := r.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A client that does not wait for the answer to CLOSE before it moves the name, as sshfs does not.
func TestRenameBehindACloseThatIsLost(t *testing.T) {
	r, _, further := newPair(t)
	h := r.open("f", openWrite|openCreate|openTrunc)
	mustOK(t, r.one(writeOf(h, 0, noise(1000))))
	further.hold()
	r.write(append(newOnHandle(typClose, r.id, h), renameOf("f", "g")(r.id+1)...))
	further.requested(1)
	r.cut()
	for range 2 {
		mustOK(t, r.read())
	}
	r.id += 2
	if got := r.content(t, "g"); !bytes.Equal(got, noise(1000)) {
		t.Error("g is not what was written to f")
	}
	if r.placed(t) == 0 {
		t.Error("no file was placed")
	}
}

// A lane is lost with a WRITE unanswered, and then another file is emptied: that one cannot have been meant.
func TestOtherFileEmptiedAfterALoss(t *testing.T) {
	r, _, further := newPair(t)
	if err := os.WriteFile(filepath.Join(r.dir, "other"), noise(1000), 0o644); err != nil {
		t.Fatal(err)
	}
	h := r.open("f", openWrite|openCreate|openTrunc)
	further.hold()
	r.write(writeOf(h, 0, noise(1000))(r.id))
	further.requested(1)
	r.cut()
	mustOK(t, r.read())
	r.id++
	r.close(r.open("other", openWrite|openTrunc))
	if code, text := r.close(h); code != statusOK {
		t.Errorf("CLOSE: %d %q", code, text)
	}
	if r.placed(t) == 0 {
		t.Error("no file was placed")
	}
}

// A file that has just been made may have got another name: what is asked by that waits for what is under way about the file.
func TestStatOfAFreshFileUnderItsNewName(t *testing.T) {
	for name, move := range map[string]func(uint32) []byte{"renamed": renameOf("f", "g"), "linked": extended("hardlink@openssh.com", "f", "g")} {
		t.Run(name, func(t *testing.T) {
			r := newCrowdRig(t, 2, func(_ *rig, cfg *Config) {
				open := cfg.Open
				cfg.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
					l, err := open(ctx)
					l.(*faulty).delay = 3 * time.Millisecond
					return l, err
				}
			})
			r.open("keeps the first lane busy", openWrite|openCreate)
			h := r.open("f", openWrite|openCreate|openTrunc)
			mustOK(t, r.one(move))
			for i := range 20 {
				answers := r.do(writeOf(h, uint64(i*100), noise(100)), func(id uint32) []byte { return newNamed(typStat, id, []byte("g")) })
				mustOK(t, answers[0])
				if v, err := parseView(answers[1].body()); err != nil || v.size != uint64(100*(i+1)) {
					t.Fatalf("STAT behind WRITE %d: %d bytes, %v", i, v.size, err)
				}
			}
			r.close(h)
			if r.placed(t) == 0 {
				t.Error("no file was placed")
			}
		})
	}
}

// A name that is given to another file before it is known that the file is open under it: lanes that look for it there find the other.
func TestNameTakenBeforeAnOpenIsAnswered(t *testing.T) {
	first := inTheMiddle(openssh())
	r := newRig(t, 3, first.start, func(r *rig, cfg *Config) {
		cfg.Open = func(context.Context) (io.ReadWriteCloser, error) { return openssh()(t, r.dir), nil }
	})
	then := time.Now().Add(-time.Hour)
	for _, name := range []string{"f", "g"} {
		path := filepath.Join(r.dir, name)
		if err := os.WriteFile(path, bytes.Repeat([]byte(name), 64<<10), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(path, then, then); err != nil {
			t.Fatal(err)
		}
	}
	first.hold()
	r.write(append(newOpen(r.id, []byte("f"), openRead), extended("posix-rename@openssh.com", "g", "f")(r.id+1)...))
	first.requested(2)
	first.release()
	var h []byte
	for range 2 {
		if p := r.read(); p.typ() == typHandle {
			h = bytes.Clone(firstString(p.body()))
		}
	}
	r.id += 2
	read := func(off, n int) {
		var row []func(uint32) []byte
		for at := off; at < off+n; at += 1 << 10 {
			row = append(row, readOf(h, uint64(at), 1<<10))
		}
		for _, p := range r.do(row...) {
			if data, err := parseString(p.body()); err != nil || !bytes.Equal(data, bytes.Repeat([]byte("f"), 1<<10)) {
				t.Fatalf("what was read of f begins with %.10q, %v", data, err)
			}
		}
	}
	read(0, 16<<10)
	r.news.await(r.wire, 1000)
	read(16<<10, 48<<10)
	r.close(h)
	if err := r.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// What is cut by its name because of a WRITE that failed is not what another file has become.
func TestNameTakenBeforeAnEarlyWriteFails(t *testing.T) {
	first := inTheMiddle(openssh())
	r := newRig(t, 1, first.start, nil)
	r.copyUp(t, "before", noise(100))
	h := r.open("f", openWrite|openCreate|openTrunc)
	mustOK(t, r.one(renameOf("f", "g")))
	if err := os.WriteFile(filepath.Join(r.dir, "f"), noise(2000), 0o644); err != nil {
		t.Fatal(err)
	}
	first.spoilNth(typWrite, 0)
	answers := r.do(writeOf(h, 0, noise(1000)), writeOf(h, 1000, noise(1000)), closeOf(0, h))
	if code, _ := statusOf(t, answers[2]); code == statusOK {
		if code, _ := statusOf(t, answers[0]); code == statusOK {
			t.Error("nobody was told that a WRITE failed")
		}
	}
	if got := r.content(t, "f"); !bytes.Equal(got, noise(2000)) {
		t.Errorf("f, which is another file now, has %d bytes", len(got))
	}
	r.end()
}

// A client that has been told how long a file is does not read another one that has taken its place when its lane is lost.
func TestPlacedFileThatWasLookedAt(t *testing.T) {
	for name, replaced := range map[string]bool{"the same": false, "another": true} {
		t.Run(name, func(t *testing.T) {
			r, _, _ := newPair(t)
			put := func(b []byte) {
				if err := os.WriteFile(filepath.Join(r.dir, "new"), b, 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Rename(filepath.Join(r.dir, "new"), filepath.Join(r.dir, "f")); err != nil {
					t.Fatal(err)
				}
			}
			put(noise(1000))
			h := r.open("f", openRead)
			r.one(func(id uint32) []byte { return newOnHandle(typFstat, id, h) }).release()
			if replaced {
				put(noise(2000))
			}
			r.cut()
			if p := r.one(readOf(h, 0, 4000)); p.typ() == typData && replaced || p.typ() != typData && !replaced {
				t.Errorf("READ: type %d, %d bytes", p.typ(), len(p.body()))
			}
			r.close(h)
			if r.placed(t) == 0 {
				t.Error("no file was placed")
			}
		})
	}
}
