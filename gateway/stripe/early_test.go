package stripe

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// patience is more than any test takes, however busy the machine is.
const patience = time.Hour

// earlyRig is a proxy with one lane whose server has answered one of each kind, so that the next may be answered early.
func earlyRig(t *testing.T) (*rig, *middle) {
	t.Helper()
	return earlyRigFor(t, patience)
}

func earlyRigFor(t *testing.T, fresh time.Duration) (*rig, *middle) {
	t.Helper()
	m := inTheMiddle(openssh())
	r := newRig(t, 1, m.start, func(_ *rig, cfg *Config) { cfg.fresh = fresh })
	r.copyUp(t, "first", noise(100))
	r.copyDown(t, "first")
	return r, m
}

func trimTo(h []byte, size uint64) func(uint32) []byte {
	return func(id uint32) []byte { return newTruncate(id, h, size) }
}

// copyUp is what scp does for a small file, one request after the other.
func (r *rig) copyUp(t *testing.T, name string, b []byte) {
	t.Helper()
	h := r.open(name, openWrite|openCreate)
	mustOK(t, r.one(writeOf(h, 0, b)))
	mustOK(t, r.one(trimTo(h, uint64(len(b)))))
	if code, text := r.close(h); code != statusOK {
		t.Fatalf("close: %d %s", code, text)
	}
}

// copyDown is what scp does for a small file.
func (r *rig) copyDown(t *testing.T, name string) []byte {
	t.Helper()
	h := r.open(name, openRead)
	data := r.one(readOf(h, 0, 32<<10))
	b, err := parseString(data.body())
	if data.typ() != typData || err != nil {
		t.Fatalf("type %d: %v", data.typ(), err)
	}
	if code, _ := statusOf(t, r.one(readOf(h, uint64(len(b)), uint32(32<<10-len(b))))); code != statusEOF {
		t.Errorf("status %d at the end", code)
	}
	if code, text := r.close(h); code != statusOK {
		t.Fatalf("close: %d %s", code, text)
	}
	return b
}

// The server answers nothing, and yet the client comes as far as its CLOSE, which the server sees before it answers the WRITE.
func TestAnUploadWaitsOnlyForItsEnd(t *testing.T) {
	r, m := earlyRig(t)
	want := noise(4 << 10)
	h := r.open("file", openWrite|openCreate)
	m.hold()
	mustOK(t, r.one(writeOf(h, 0, want)))
	mustOK(t, r.one(trimTo(h, uint64(len(want)))))
	closed := make(chan uint32)
	go func() {
		defer close(closed)
		code, _ := r.close(h)
		closed <- code
	}()
	if got, want := m.requested(3), string([]byte{typWrite, typFsetstat, typClose}); got != want {
		t.Errorf("the server has been asked %v", []byte(got))
	}
	m.release()
	if code := <-closed; code != statusOK {
		t.Errorf("close: %d", code)
	}
	if !bytes.Equal(r.content(t, "file"), want) {
		t.Error("the file differs")
	}
}

// The server is silent, and yet the client hears that the file is at its end and closed.
func TestADownloadDoesNotWaitForItsEnd(t *testing.T) {
	r, m := earlyRig(t)
	h := r.open("first", openRead)
	if p := r.one(readOf(h, 0, 32<<10)); p.typ() != typData {
		t.Fatalf("type %d", p.typ())
	}
	r.one(func(id uint32) []byte { return newOnHandle(typFstat, id, h) }).release() // so that the proxy's own has been answered too
	m.hold()
	if code, _ := statusOf(t, r.one(readOf(h, 100, 32<<10-100))); code != statusEOF {
		t.Errorf("status %d at the end", code)
	}
	if code, text := r.close(h); code != statusOK {
		t.Errorf("close: %d %s", code, text)
	}
	if got := m.requested(1); got != string([]byte{typClose}) {
		t.Errorf("the server has been asked %v", []byte(got))
	}
	m.release()
}

// What the client itself has changed meanwhile is seen.
func TestTheEndThatMoved(t *testing.T) {
	r, _ := earlyRig(t)
	h := r.open("first", openRead)
	r.one(readOf(h, 0, 32<<10)).release()
	w := r.open("first", openWrite|openAppend)
	mustOK(t, r.one(writeOf(w, 0, []byte("more"))))
	if p := r.one(readOf(h, 100, 32<<10-100)); p.typ() != typData {
		t.Errorf("type %d, not the data that was added", p.typ())
	}
}

// upTo says how a small upload goes whose requests fail on the machine: every failure is heard of at CLOSE at the latest, and no hole is left.
func TestFailuresOfWhatWasAnswered(t *testing.T) {
	data := noise(8 << 10)
	for name, c := range map[string]struct {
		typ  byte
		nth  int
		held bool // the failure is known only after CLOSE was sent
		trim bool
		left int
		said string // code and text of the answer to CLOSE
	}{
		"the only piece, known late": {typ: typWrite, nth: 0, held: true, trim: true, left: 0, said: "4Failure"},
		"the last piece, known late": {typ: typWrite, nth: 1, held: true, trim: true, left: 4 << 10, said: "4Failure"},
		"the first, nothing trimmed": {typ: typWrite, nth: 0, held: true, left: 0, said: "4Failure"},
		"the first, known early":     {typ: typWrite, nth: 0, trim: true, left: 0, said: "4Failure"},
		"the last, known early":      {typ: typWrite, nth: 1, trim: true, left: 4 << 10, said: "4Failure"},
		"the size":                   {typ: typFsetstat, nth: 0, held: true, trim: true, left: 8 << 10, said: "4Failure"},
		"the end":                    {typ: typClose, nth: 0, held: true, trim: true, left: 8 << 10, said: "2No such file"},
	} {
		t.Run(name, func(t *testing.T) {
			r, m := earlyRig(t)
			h := r.open("file", openWrite|openCreate)
			m.spoilNth(c.typ, c.nth)
			if c.held {
				m.hold()
			}
			for _, piece := range pieces(h, data, 0, 4<<10) {
				r.one(piece).release()
				if !c.held {
					r.one(func(id uint32) []byte { return newOnHandle(typFstat, id, h) }).release()
				}
			}
			requests := 2
			if c.trim {
				requests++
				r.one(trimTo(h, uint64(len(data)))).release()
			}
			closed := make(chan string)
			go func() {
				defer close(closed)
				code, text := r.close(h)
				closed <- fmt.Sprint(code, text)
			}()
			if c.held {
				m.requested(requests + 1)
				m.release()
			}
			if said := <-closed; said != c.said {
				t.Errorf("close: %s", said)
			}
			if got := r.content(t, "file"); !bytes.Equal(got, data[:c.left]) {
				t.Errorf("%d bytes are left, want %d", len(got), c.left)
			}
		})
	}
}

// Nothing is cut but what was written: by the time of CLOSE the name stands for another file.
func TestAHoleInAFileThatMoved(t *testing.T) {
	r, m := earlyRig(t)
	h := r.open("file", openWrite|openCreate)
	m.spoilNth(typWrite, 0)
	m.hold()
	mustOK(t, r.one(writeOf(h, 0, noise(4<<10))))
	mustOK(t, r.one(trimTo(h, 4<<10)))
	if err := os.Rename(filepath.Join(r.dir, "file"), filepath.Join(r.dir, "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(r.dir, "file"), []byte("another"), 0o644); err != nil {
		t.Fatal(err)
	}
	closed := make(chan string)
	go func() {
		defer close(closed)
		code, text := r.close(h)
		closed <- fmt.Sprint(code, text)
	}()
	m.requested(3)
	m.release()
	if said := <-closed; !strings.HasPrefix(said, "4file is damaged") {
		t.Errorf("close: %s", said)
	}
	if got := r.content(t, "file"); string(got) != "another" {
		t.Errorf("the other file is now %q", got)
	}
}

// brokenUpload sends a small upload whose only WRITE fails, unknown to the client, up to its CLOSE and whatever the client sends behind that without waiting;
// then the server's answers come.
func brokenUpload(t *testing.T, r *rig, m *middle, handle []byte, behind ...[]byte) {
	t.Helper()
	m.spoilNth(typWrite, 0)
	m.hold()
	mustOK(t, r.one(writeOf(handle, 0, noise(4<<10))))
	mustOK(t, r.one(trimTo(handle, 4<<10)))
	r.write(bytes.Join(append([][]byte{newOnHandle(typClose, r.id, handle)}, behind...), nil))
	m.requested(3)
	m.release()
}

// A handle that the server gives again is not given to the client before it knows that it was closed, and what it does with the next file of
// that name is not cut.
func TestNothingPassesTheCloseOfABrokenUpload(t *testing.T) {
	r, m := earlyRig(t)
	h := r.open("file", openWrite|openCreate)
	brokenUpload(t, r, m, h, newOpen(r.id+1, []byte("file"), openWrite|openCreate))
	answers := map[byte]*packet{}
	for _, typ := range []byte{typStatus, typHandle} {
		p := r.read()
		if answers[p.typ()] = p; p.typ() != typ {
			t.Errorf("an answer of type %d, want %d", p.typ(), typ)
		}
	}
	r.id += 2
	if code, _ := statusOf(t, answers[typStatus]); code != statusFailure {
		t.Errorf("close: %d", code)
	}
	again, err := parseString(answers[typHandle].body())
	if err != nil || !bytes.Equal(again, h) {
		t.Fatalf("handle %q (%v), want %q once more: else this shows nothing", again, err, h)
	}
	want := noise(100)
	mustOK(t, r.one(writeOf(again, 0, want)))
	r.close(again)
	if got := r.content(t, "file"); !bytes.Equal(got, want) {
		t.Errorf("%d bytes are left, want %d", len(got), len(want))
	}
}

// A client that ends its stream behind CLOSE, and does not wait for the answer, leaves no hole either.
func TestAHoleAndTheEndBehindClose(t *testing.T) {
	r, m := earlyRig(t)
	h := r.open("file", openWrite|openCreate)
	brokenUpload(t, r, m, h)
	r.near.CloseWrite()
	if err := <-r.result; err != nil {
		t.Error(err)
	}
	if got := r.content(t, "file"); len(got) != 0 {
		t.Errorf("%d bytes are left", len(got))
	}
}

// A client that leaves without CLOSE leaves no hole either.
func TestAHoleAndNoClose(t *testing.T) {
	r, m := earlyRig(t)
	h := r.open("file", openWrite|openCreate)
	m.spoilNth(typWrite, 0)
	m.hold()
	mustOK(t, r.one(writeOf(h, 0, noise(4<<10))))
	mustOK(t, r.one(trimTo(h, 4<<10)))
	m.requested(2)
	r.near.CloseWrite()
	m.release()
	if err := <-r.result; err != nil {
		t.Error(err)
	}
	if got := r.content(t, "file"); len(got) != 0 {
		t.Errorf("%d bytes are left", len(got))
	}
}

// A file that could not be cut by its name is not written early: its WRITE is answered by the server, and so is the next after a failure.
func TestWhatIsNotAnsweredEarly(t *testing.T) {
	for name, open := range map[string]func(id uint32) []byte{
		"not writable by its owner": func(id uint32) []byte {
			b := newOpen(id, []byte("file"), openWrite|openCreate)
			b = append(b[:len(b)-4], 0, 0, 0, attrMode, 0, 0, 0o1, 0o44) // 0444
			return finish(b)
		},
		"for appending":           func(id uint32) []byte { return newOpen(id, []byte("file"), openWrite|openCreate|openAppend) },
		"for reading and writing": func(id uint32) []byte { return newOpen(id, []byte("file"), openRead|openWrite|openCreate) },
	} {
		t.Run(name, func(t *testing.T) {
			r, m := earlyRig(t)
			h, err := parseString(r.one(open).body())
			if err != nil {
				t.Fatal(err)
			}
			m.spoilNth(typWrite, 0)
			if code, _ := statusOf(t, r.one(writeOf(h, 0, noise(100)))); code == statusOK {
				t.Error("the WRITE was answered before the server had refused it")
			}
		})
	}
}

// With Early below zero every answer that the client gets is one that the server has given to this very request.
func TestNothingIsAnsweredEarly(t *testing.T) {
	m := inTheMiddle(openssh())
	r := newRig(t, 1, m.start, func(_ *rig, cfg *Config) { cfg.Early = -1 })
	for i := range 4 {
		name := fmt.Sprint("file", i)
		r.copyUp(t, name, noise(100))
		r.copyDown(t, name)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
	if n := r.news.early.Load(); n > 0 {
		t.Errorf("answers were given early in %d sessions", n)
	}
	if got := len(m.requested(0)); got != 1+4*(4+4) {
		t.Errorf("the server was asked %d times", got)
	}
}
