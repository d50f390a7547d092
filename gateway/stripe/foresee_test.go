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

// walkRig is a client that has listed a directory with small files, of which it has read the first two: the third is open before it asks.
func walkRig(t *testing.T) (r *rig, m *middle, paths []string) {
	t.Helper()
	return walkFor(t, patience)
}

// walkFor is a walkRig in which what was learned may be used for so long.
func walkFor(t *testing.T, fresh time.Duration) (r *rig, m *middle, paths []string) {
	t.Helper()
	r, m = earlyRigFor(t, fresh)
	dir := filepath.Join(r.dir, "many")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprint("file", i)), noise(1000+i), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range r.list("many") {
		paths = append(paths, "many/"+name)
	}
	if len(paths) != 6 {
		t.Fatalf("listed %v", paths)
	}
	r.fetch(t, paths[0])
	r.one(named(typRemove, "nothing")).release() // waits until the early CLOSE has been answered
	m.count()
	r.fetch(t, paths[1])
	m.requested(5) // OPEN, OPEN of the third, READ, FSTAT, CLOSE
	return r, m, paths
}

func named(typ byte, path string) func(uint32) []byte {
	return func(id uint32) []byte { return finish(appendString(begin(nil, typ, id), []byte(path))) }
}

// list returns the names of the files in a directory, in the order of the server.
func (w *wire) list(path string) (files []string) {
	w.t.Helper()
	h, err := parseString(w.one(named(typOpendir, path)).body())
	if err != nil {
		w.t.Fatalf("opendir %s: %v", path, err)
	}
	for {
		p := w.one(func(id uint32) []byte { return newOnHandle(typReaddir, id, h) })
		if p.typ() != typName {
			break
		}
		c := cursor{b: p.body()}
		for n := c.u32(); n > 0; n-- {
			name := string(c.str())
			c.str()
			if c.attrs().regular() {
				files = append(files, name)
			}
		}
		if !c.whole() {
			w.t.Fatalf("a listing that does not end with its last entry: %q", p.body())
		}
	}
	w.close(h)
	return files
}

// fetch reads a file as scp does and compares.
func (r *rig) fetch(t *testing.T, path string) {
	t.Helper()
	if got := r.copyDown(t, path); !bytes.Equal(got, r.content(t, path)) {
		t.Errorf("%s: %d bytes that are not what is in it", path, len(got))
	}
}

// Asked for a file that is open already, the server is asked at once whether it is the right one, for its data, and to open the next: the client waits
// once for each file.
func TestAFileOfAWalkTakesOneRoundTrip(t *testing.T) {
	r, m, paths := walkRig(t)
	m.count()
	third := r.open(paths[2], openRead)
	r.one(readOf(third, 10, 5)).release() // from the server, which has then opened the fourth too
	r.close(third)
	m.requested(6) // STAT, READ, FSTAT, OPEN of the fourth, READ, CLOSE
	m.hold()
	opened := make(chan []byte)
	go func() {
		defer close(opened)
		opened <- r.open(paths[3], openRead)
	}()
	if got, want := m.requested(4), string([]byte{typStat, typRead, typFstat, typOpen}); got != want {
		t.Errorf("the server has been asked %v", []byte(got))
	}
	m.release()
	h := <-opened
	m.hold()
	want := r.content(t, paths[3])
	if got, err := parseString(r.one(readOf(h, 0, 32<<10)).body()); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if code, _ := statusOf(t, r.one(readOf(h, uint64(len(want)), 100))); code != statusEOF {
		t.Errorf("status %d at the end", code)
	}
	if code, text := r.close(h); code != statusOK {
		t.Errorf("close: %d %s", code, text)
	}
	m.release()
	for _, path := range paths[4:] {
		r.fetch(t, path)
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// Whatever somebody else does to the file that is open already: the client is given what it would have been given without.
func TestTheNextFileChanges(t *testing.T) {
	at := func(r *rig, path string) string { return filepath.Join(r.dir, path) }
	for name, change := range map[string]func(r *rig, path string) error{
		"written in place": func(r *rig, path string) error {
			info, err := os.Stat(at(r, path))
			if err != nil {
				return err
			}
			return os.WriteFile(at(r, path), bytes.Repeat([]byte("x"), int(info.Size())), 0o644)
		},
		"another in its place": func(r *rig, path string) error {
			if err := os.WriteFile(at(r, "other"), []byte("other"), 0o644); err != nil {
				return err
			}
			return os.Rename(at(r, "other"), at(r, path))
		},
		"appended to": func(r *rig, path string) error {
			f, err := os.OpenFile(at(r, path), os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString("more")
			return err
		},
		"emptied":     func(r *rig, path string) error { return os.Truncate(at(r, path), 0) },
		"grown large": func(r *rig, path string) error { return os.WriteFile(at(r, path), noise(300<<10), 0o644) },
	} {
		t.Run(name, func(t *testing.T) {
			r, _, paths := walkRig(t)
			if err := change(r, paths[2]); err != nil {
				t.Fatal(err)
			}
			h := r.open(paths[2], openRead)
			var got []byte
			for {
				p := r.one(readOf(h, uint64(len(got)), 32<<10))
				if p.typ() != typData {
					break
				}
				b, _ := parseString(p.body())
				got = append(got, b...)
			}
			if !bytes.Equal(got, r.content(t, paths[2])) {
				t.Errorf("%d bytes that are not what is in the file", len(got))
			}
			if code, text := r.close(h); code != statusOK {
				t.Errorf("close: %d %s", code, text)
			}
			for _, path := range paths[3:] {
				r.fetch(t, path)
			}
		})
	}
}

// A file that is gone is gone, and so is one that the client itself removes or renames: it is closed before.
func TestTheNextFileGoes(t *testing.T) {
	gone := func(r *rig, t *testing.T, path string) {
		t.Helper()
		if p := r.one(func(id uint32) []byte { return newOpen(id, []byte(path), openRead) }); p.typ() != typStatus || refusal(p) != "No such file" {
			t.Errorf("OPEN of what is gone: type %d", p.typ())
		}
	}
	t.Run("somebody else", func(t *testing.T) {
		r, _, paths := walkRig(t)
		if err := os.Remove(filepath.Join(r.dir, paths[2])); err != nil {
			t.Fatal(err)
		}
		gone(r, t, paths[2])
		r.fetch(t, paths[3])
	})
	for name, request := range map[string]func(path string) func(uint32) []byte{
		"removed": func(path string) func(uint32) []byte { return named(typRemove, path) },
		"renamed": func(path string) func(uint32) []byte {
			return func(id uint32) []byte {
				return finish(appendString(appendString(begin(nil, typRename, id), []byte(path)), []byte("elsewhere")))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r, m, paths := walkRig(t)
			build := request(paths[2])
			m.count()
			mustOK(t, r.one(build))
			if seen := m.requested(2); !strings.HasPrefix(seen, string([]byte{typClose, build(0)[4]})) {
				t.Errorf("the server has been asked %v", []byte(seen))
			}
			gone(r, t, paths[2])
			r.fetch(t, paths[3])
		})
	}
}

// A client that does not go on leaves nothing open.
func TestAWalkThatEnds(t *testing.T) {
	r, m, _ := walkFor(t, time.Second)
	for n := 6; strings.Count(m.requested(n), string([]byte{typClose})) < 2; n++ { // of the second file and of the third, which nobody asked for
		continue
	}
	if err := r.end(); err != nil {
		t.Error(err)
	}
}

// Nobody's word is taken: files that keep being others end the looking ahead, and the client sees none of it.
func TestStumbling(t *testing.T) {
	r, m, paths := walkRig(t)
	for _, path := range paths[2:] {
		if err := os.WriteFile(filepath.Join(r.dir, "other"), []byte(path), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(filepath.Join(r.dir, "other"), filepath.Join(r.dir, path)); err != nil {
			t.Fatal(err)
		}
		r.fetch(t, path)
	}
	m.count()
	for _, path := range paths[:4] {
		r.fetch(t, path)
	}
	if seen := m.requested(4); strings.Count(seen, string([]byte{typOpen})) != 4 {
		t.Errorf("the server has been asked %v", []byte(seen))
	}
}
