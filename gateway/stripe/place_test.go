package stripe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// newCrowdRig is a rig that places every file it may, and whose lanes are there.
func newCrowdRig(t *testing.T, lanes int, adjust func(*rig, *Config)) *rig {
	t.Helper()
	r := newRig(t, lanes, openssh(), func(r *rig, cfg *Config) {
		cfg.eager, cfg.Bulk = true, 64<<10
		if adjust != nil {
			adjust(r, cfg)
		}
	})
	r.close(r.open("first", openWrite|openCreate|openTrunc))
	r.until(func() bool { return r.news.vouched.Load() == int64(lanes-1) })
	return r
}

// until makes harmless round trips.
func (r *rig) until(done func() bool) {
	r.t.Helper()
	for !done() {
		r.one(func(id uint32) []byte { return newNamed(typStat, id, []byte("nothing")) }).release()
	}
}

// openAll opens files without waiting in between.
func (r *rig) openAll(flags uint32, names ...string) (handles [][]byte) {
	r.t.Helper()
	var row []func(uint32) []byte
	for _, name := range names {
		row = append(row, func(id uint32) []byte { return newOpen(id, []byte(name), flags) })
	}
	for i, p := range r.do(row...) {
		h, err := parseString(p.body())
		if p.typ() != typHandle || err != nil {
			r.t.Fatalf("open %s: %s", names[i], refusal(p))
		}
		handles = append(handles, h)
	}
	return handles
}

// placed ends the rig and returns how many files were placed.
func (r *rig) placed(t *testing.T) int64 {
	t.Helper()
	if err := r.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
	return r.news.placed.Load()
}

func manyNames(n int) (names []string) {
	for i := range n {
		names = append(names, fmt.Sprintf("f%02d", i))
	}
	return names
}

// row makes one request for each file.
func row(handles [][]byte, build func(i int, h []byte) func(uint32) []byte) (requests []func(uint32) []byte) {
	for i, h := range handles {
		requests = append(requests, build(i, h))
	}
	return requests
}

func renameOf(from, to string) func(uint32) []byte {
	return func(id uint32) []byte {
		return finish(appendString(appendString(begin(nil, typRename, id), []byte(from)), []byte(to)))
	}
}

func closeOf(_ int, h []byte) func(uint32) []byte {
	return func(id uint32) []byte { return newOnHandle(typClose, id, h) }
}

// Lanes that die with small files on them: what the client was told is so, and nobody notices.
func TestPlacedFilesOutliveTheirLane(t *testing.T) {
	placed := int64(0) // of those whose lane dies at once, none may be
	for _, after := range []int64{1, 200, 1000, 4200, 9000, 20000} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			r := newCrowdRig(t, 4, nil)
			r.kill(after)
			round := 0
			r.untilALaneDies(t, func() {
				round++
				r.thereAndBack(t, round)
			})
			placed += r.placed(t)
		})
	}
	if placed == 0 {
		t.Error("no file was placed")
	}
}

// thereAndBack uploads a crowd of files that are not there yet, and downloads them.
func (r *rig) thereAndBack(t *testing.T, round int) {
	t.Helper()
	names := manyNames(24)
	for i := range names {
		names[i] = fmt.Sprintf("%s.%d", names[i], round)
	}
	content := func(i int) []byte { return noise(2000 + 10*i) }
	handles := r.openAll(openWrite|openCreate|openTrunc, names...)
	for _, p := range r.do(row(handles, func(i int, h []byte) func(uint32) []byte { return writeOf(h, 0, content(i)) })...) {
		mustOK(t, p)
	}
	for _, p := range r.do(row(handles, closeOf)...) {
		mustOK(t, p)
	}
	for i, name := range names {
		if !bytes.Equal(r.content(t, name), content(i)) {
			t.Errorf("%s on the server is not what was sent", name)
		}
	}
	handles = r.openAll(openRead, names...)
	for i, p := range r.do(row(handles, func(_ int, h []byte) func(uint32) []byte { return readOf(h, 0, 32<<10) })...) {
		if data, err := parseString(p.body()); p.typ() != typData || err != nil || !bytes.Equal(data, content(i)) {
			t.Errorf("what was read of %s is not what was sent", names[i])
		}
	}
	for _, p := range r.do(row(handles, closeOf)...) {
		mustOK(t, p)
	}
}

// needed is a lane that somebody else needs once it ends.
type needed struct{ io.ReadWriteCloser }

func (n needed) Read(b []byte) (int, error) {
	c, err := n.ReadWriteCloser.Read(b)
	if err != nil {
		err = ErrNoRoom
	}
	return c, err
}

// A lane that somebody else needs is no failure, even for files whose requests are all answered.
func TestPlacedFilesWhoseLaneIsGivenBack(t *testing.T) {
	r := newCrowdRig(t, 2, func(r *rig, cfg *Config) {
		open := cfg.Open
		cfg.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
			l, err := open(ctx)
			return needed{l}, err
		}
	})
	names := manyNames(8)
	handles := r.openAll(openWrite|openCreate|openTrunc, names...)
	half := func(off int) []func(uint32) []byte {
		return row(handles, func(_ int, h []byte) func(uint32) []byte { return writeOf(h, uint64(off), noise(2000)[off:off+1000]) })
	}
	for _, p := range r.do(half(0)...) {
		mustOK(t, p)
	}
	r.mu.Lock()
	for _, l := range r.lanes {
		l.Close()
	}
	r.mu.Unlock()
	for _, p := range append(r.do(half(1000)...), r.do(row(handles, closeOf)...)...) {
		mustOK(t, p)
	}
	for _, name := range names {
		if !bytes.Equal(r.content(t, name), noise(2000)) {
			t.Errorf("%s on the server is not what was sent", name)
		}
	}
	if n := r.placed(t); n == 0 {
		t.Error("no file was placed")
	}
}

// A file that cannot be found again when its lane is lost fails, for everything that is asked about it.
func TestPlacedFileThatIsLost(t *testing.T) {
	r := newCrowdRig(t, 4, nil)
	names := manyNames(12)
	handles := r.openAll(openWrite|openCreate|openTrunc, names...)
	mustOK(t, r.one(renameOf(names[0], "elsewhere")))
	r.kill(0)
	failed := 0
	for i, p := range r.do(row(handles, func(_ int, h []byte) func(uint32) []byte { return writeOf(h, 0, noise(1000)) })...) {
		code, text := statusOf(t, p)
		closed, _ := r.close(handles[i])
		switch {
		case code == statusOK && closed == statusOK:
			name := names[i]
			if i == 0 {
				name = "elsewhere"
			}
			if !bytes.Equal(r.content(t, name), noise(1000)) {
				t.Errorf("%s on the server is not what was sent", name)
			}
		case code == statusOK || closed == statusOK:
			t.Errorf("%s: WRITE says %d and CLOSE %d", names[i], code, closed)
		case !strings.Contains(text, "a lane was lost"):
			t.Errorf("%s: refused with %q", names[i], text)
		default:
			failed++
		}
	}
	if failed == 0 || failed == len(names) {
		t.Errorf("%d of %d files failed, want those that were on lanes", failed, len(names))
	}
	r.end()
}

// Files that are there already are taken as they are, by the first lane, with what was in them where they are not truncated.
func TestFilesThatAreThereAlready(t *testing.T) {
	r := newCrowdRig(t, 3, nil)
	names := manyNames(2 * maxTaken)
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(r.dir, name), []byte("before, and after"), 0o640); err != nil {
			t.Fatal(err)
		}
	}
	handles := r.openAll(openWrite|openCreate, names...)
	for _, p := range append(r.do(row(handles, func(_ int, h []byte) func(uint32) []byte { return writeOf(h, 0, []byte("BEFORE")) })...), r.do(row(handles, closeOf)...)...) {
		mustOK(t, p)
	}
	for _, name := range names {
		if got := string(r.content(t, name)); got != "BEFORE, and after" {
			t.Errorf("%s holds %q", name, got)
		}
	}
	if n := r.placed(t); n > 1 { // the rig's own
		t.Errorf("%d files placed that were there before", n)
	}
}

// A file that turns out to be large comes to the first lane, and from there to all.
func TestPlacedFileThatGrows(t *testing.T) {
	r := newCrowdRig(t, 3, nil)
	names := manyNames(6)
	handles := r.openAll(openWrite|openCreate|openTrunc, names...)
	want := noise(300 << 10)
	for off := 0; off < len(want); off += 4 << 10 {
		for _, p := range r.do(row(handles, func(_ int, h []byte) func(uint32) []byte { return writeOf(h, uint64(off), want[off:off+4<<10]) })...) {
			mustOK(t, p)
		}
	}
	for _, p := range r.do(row(handles, closeOf)...) {
		mustOK(t, p)
	}
	for _, name := range names {
		if !bytes.Equal(r.content(t, name), want) {
			t.Errorf("%s on the server is not what was sent", name)
		}
	}
	if n := r.placed(t); n == 0 || r.count.striped() != len(names) {
		t.Errorf("%d files placed, %d of %d striped", n, r.count.striped(), len(names))
	}
}

// What is asked about a placed file in words that the proxy does not know is asked of the first lane, which must know the file.
func TestUnknownQuestionAboutPlacedFile(t *testing.T) {
	r := newCrowdRig(t, 2, nil)
	handles := r.openAll(openWrite|openCreate|openTrunc, manyNames(4)...)
	for _, h := range handles {
		p := r.one(func(id uint32) []byte {
			return finish(appendString(appendString(begin(nil, typExtended, id), []byte("fstatvfs@openssh.com")), h))
		})
		if p.typ() != typExtended+1 {
			t.Errorf("answered with type %d: %s", p.typ(), refusal(p))
		}
	}
	for _, p := range r.do(row(handles, closeOf)...) {
		mustOK(t, p)
	}
	if r.placed(t) == 0 {
		t.Error("no file was placed")
	}
}

// A lane that leads elsewhere is given no file.
func TestLaneThatLeadsElsewhere(t *testing.T) {
	r := newRig(t, 2, openssh(), func(_ *rig, cfg *Config) {
		cfg.eager = true
		other := t.TempDir()
		cfg.Open = func(context.Context) (io.ReadWriteCloser, error) { return openssh()(t, other), nil }
	})
	r.close(r.open("first", openWrite|openCreate|openTrunc))
	r.until(func() bool { return r.news.looked.Load() == 1 })
	names := manyNames(8)
	r.do(row(r.openAll(openWrite|openCreate|openTrunc, names...), closeOf)...)
	for _, name := range names {
		r.content(t, name)
	}
	if n := r.news.vouched.Load(); n != 0 {
		t.Errorf("%d lanes take files", n)
	}
	r.end()
}

// Lanes have a price: a handful of small files is not worth it, nor are many one after the other.
func TestWhenLanesAreWorthIt(t *testing.T) {
	for name, c := range map[string]struct {
		files, atOnce int
		lanes         bool
	}{"a handful": {6, 6, false}, "in a row": {200, 1, false}, "many at once": {200, 20, true}} {
		t.Run(name, func(t *testing.T) {
			var asked atomic.Int32 // whether a lane is there before the last file is over, is the machine's business
			r := newRig(t, 2, openssh(), func(_ *rig, cfg *Config) {
				cfg.Bulk = 64 << 10
				open := cfg.Open
				cfg.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
					asked.Add(1)
					return open(ctx)
				}
			})
			var handles [][]byte
			data := noise(2 << 10)
			for from := 0; from < c.files; from += c.atOnce {
				var next []func(uint32) []byte // the next files are opened while the ones before are written
				for i := range c.atOnce {
					next = append(next, func(id uint32) []byte {
						return newOpen(id, fmt.Appendf(nil, "f%d", from+i), openWrite|openCreate|openTrunc)
					})
				}
				writes := row(handles, func(_ int, h []byte) func(uint32) []byte { return writeOf(h, 0, data) })
				if c.atOnce == 1 {
					for _, w := range writes {
						mustOK(t, r.one(w))
					}
					writes = nil
				}
				answers := r.do(append(writes, next...)...)
				for _, h := range handles {
					r.close(h)
				}
				handles = nil
				for _, p := range answers[len(writes):] {
					h, err := parseString(p.body())
					if p.typ() != typHandle || err != nil {
						t.Fatalf("open: %s", refusal(p))
					}
					handles = append(handles, bytes.Clone(h))
				}
			}
			r.end()
			if wanted := asked.Load() > 0; wanted != c.lanes {
				t.Errorf("lanes opened: %v, want %v", wanted, c.lanes)
			}
		})
	}
}

// Files that are not placed wait for the OPENs of others, as these do for them. A few of them, written in many pieces, say nothing about the others.
func TestFewThatAreNotPlaced(t *testing.T) {
	r := newCrowdRig(t, 3, nil)
	names := manyNames(40)
	for _, name := range names[:3] {
		if err := os.WriteFile(filepath.Join(r.dir, name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	there := r.openAll(openWrite|openCreate|openTrunc, names[:3]...)
	for i, name := range names[3:] {
		writes := row(there, func(_ int, h []byte) func(uint32) []byte { return writeOf(h, uint64(i)*1000, noise(1000)) })
		open := func(id uint32) []byte { return newOpen(id, []byte(name), openWrite|openCreate|openTrunc) }
		for _, p := range r.do(slices.Concat(writes, []func(uint32) []byte{open}, writes)...) {
			if h, ok := parseHandle(p); ok {
				r.close(bytes.Clone(h))
			} else {
				mustOK(t, p)
			}
		}
	}
	if n := r.placed(t); n < 12 {
		t.Errorf("%d of 37 files were placed, with two of three lanes to take them", n)
	}
}

// An OPEN that is done again may come behind a CLOSE that the client sent later, and be given its handle. The client is not: it would take the file for closed
// if it looks at answers in the order of its requests.
func TestAnOpenThatIsDoneAgainBehindAClose(t *testing.T) {
	m := inTheMiddle(openssh())
	r := newRig(t, 2, m.start, func(_ *rig, cfg *Config) {
		cfg.eager = true
		cfg.Open = func(context.Context) (io.ReadWriteCloser, error) { return nil, ErrNoRoom }
	})
	for _, name := range []string{"other", "there"} {
		if err := os.WriteFile(filepath.Join(r.dir, name), noise(100), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	h := r.open("other", openRead)
	m.hold()
	r.write(append(newOpen(r.id, []byte("there"), openWrite|openCreate|openTrunc), newOnHandle(typClose, r.id+1, h)...))
	if got, want := m.requested(2), string([]byte{typOpen, typClose}); got != want {
		t.Fatalf("the server has been asked %v", []byte(got))
	}
	m.release()
	var given []byte
	for range 2 {
		if p := r.read(); p.typ() == typHandle {
			given = bytes.Clone(firstString(p.body()))
		} else {
			mustOK(t, p)
		}
	}
	r.id += 2
	if len(given) == 0 || bytes.Equal(given, h) {
		t.Errorf("handle %x, and %x has just been closed", given, h)
	}
	var there []byte
	m.turnInto(func(pkt *packet) [][]byte {
		if pkt.typ() == typWrite {
			there = bytes.Clone(firstString(pkt.body()))
		}
		return [][]byte{pkt.bytes()}
	})
	mustOK(t, r.one(writeOf(given, 0, []byte("after"))))
	m.turnInto(nil)
	if !bytes.Equal(there, h) {
		t.Errorf("the server gave handle %x, not %x once more: this shows nothing", there, h)
	}
	r.close(given)
	if got := string(r.content(t, "there")); got != "after" {
		t.Errorf("the file holds %q", got)
	}
	if err := r.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// The OPENs of a crowd may come in waves, with reads and writes in between that take longer than a lull.
func TestCrowdInWaves(t *testing.T) {
	p := &Proxy{cfg: Config{Bulk: 1 << 20, MaxLanes: 8}, version: []byte{}, files: map[string]*file{}, first: &lane{}}
	for i := range company {
		p.files[fmt.Sprint(i)] = &file{}
		p.outstanding = append(p.outstanding, &op{kind: write})
	}
	p.placing.opened, p.placing.last = minOpened, time.Now().Add(-2*lull)
	next := &opening{path: []byte("f")}
	p.keepCompany(&op{kind: read})
	p.outstanding = nil
	if !p.mayPlace(next) {
		t.Error("the next wave begins as if there had been none")
	}
}
