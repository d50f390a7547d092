package stripe

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// program is a random SFTP session: bursts of requests, each sent without waiting for the answers within the burst.
type program struct {
	bursts [][]step
	lanes  int
	delay  time.Duration
	death  int64 // bytes after which further lanes die; negative for never
	small  bool  // files are small ones, so that answers are given early and none is striped
	eager  bool  // every file that may be placed is
	alone  bool  // each request waits for the answer to the one before, within a burst too
}

type step struct {
	verb    string // "settle" gives the proxy time to bring its lanes up
	name    string
	to      string
	slot    int // the handle that the slot-th successful OPEN returned, counted from the latest
	flags   uint32
	off     uint64
	size    int
	content byte
}

func (s step) String() string {
	return fmt.Sprintf("%s %s>%s #%d %#x %d+%d %d", s.verb, s.name, s.to, s.slot, s.flags, s.off, s.size, s.content)
}

var names = []string{"a", "b", "dir/c", "link", "hard", "n0", "n1"}

var openings = []uint32{
	openRead, openRead, openWrite, openWrite | openCreate, openWrite | openCreate | openTrunc, openWrite | openCreate | openTrunc,
	openWrite | openCreate | openExcl, openRead | openWrite, openWrite | openAppend | openCreate, openRead | openCreate,
}

// extensions are sent as bodies for a handle and two names.
var extensions = map[string]func(h, name, to []byte) []byte{
	"fsync@openssh.com":        func(h, _, _ []byte) []byte { return appendString(nil, h) },
	"posix-rename@openssh.com": func(_, n, to []byte) []byte { return appendString(appendString(nil, n), to) },
	"hardlink@openssh.com":     func(_, n, to []byte) []byte { return appendString(appendString(nil, n), to) },
	"unheard-of@example.org":   func(h, _, _ []byte) []byte { return appendString(nil, h) },
	"copy-data": func(h, _, _ []byte) []byte {
		b := appendString(nil, h)
		b = binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(b, 0), 4096)
		return binary.BigEndian.AppendUint64(appendString(b, h), 20000)
	},
}

func genStep(t *rapid.T) step {
	verbs := []string{
		"open", "open", "close", "run", "run", "run", "run", "settle", "settle", "churn", "churn", "write", "write", "read", "read", "fstat", "stat", "truncate",
		"ftruncate", "remove", "rename", "mkdir", "rmdir", "symlink", "lstat", "readlink", "chmod", "fchmod",
		"fsync@openssh.com", "posix-rename@openssh.com", "hardlink@openssh.com", "copy-data", "unheard-of@example.org",
	}
	s := step{
		verb: rapid.SampledFrom(verbs).Draw(t, "verb"), name: rapid.SampledFrom(names).Draw(t, "name"), to: rapid.SampledFrom(names).Draw(t, "to"),
		slot: rapid.SampledFrom([]int{0, 0, 0, 1, 2}).Draw(t, "slot"), flags: rapid.SampledFrom(openings).Draw(t, "flags"),
		off: uint64(rapid.IntRange(0, 60<<10).Draw(t, "off")), size: rapid.IntRange(0, 9<<10).Draw(t, "size"), content: rapid.Byte().Draw(t, "content"),
	}
	return s
}

func genProgram(t *rapid.T) program {
	p := program{
		lanes: rapid.IntRange(1, 4).Draw(t, "lanes"), death: -1,
		delay: time.Duration(rapid.SampledFrom([]int{0, 200, 1000}).Draw(t, "delay")) * time.Microsecond,
	}
	if rapid.Bool().Draw(t, "mortal") {
		p.death = int64(rapid.IntRange(100, 200<<10).Draw(t, "death"))
	}
	p.small, p.alone, p.eager = rapid.Bool().Draw(t, "small"), rapid.Bool().Draw(t, "alone"), rapid.Bool().Draw(t, "eager")
	for i := range rapid.IntRange(1, 12).Draw(t, "bursts") {
		if i%4 == 0 { // a copy, or nothing much happens
			name, flags := rapid.SampledFrom(names).Draw(t, "copied"), rapid.SampledFrom(openings[:6]).Draw(t, "how")
			size := rapid.IntRange(2<<10, 9<<10).Draw(t, "piece")
			p.bursts = append(p.bursts, []step{{verb: "open", name: name, flags: flags}}, []step{{verb: "run", size: size}, {verb: "settle"}})
		}
		for range rapid.IntRange(0, 3).Draw(t, "small files") {
			p.bursts = append(p.bursts, genSmallFile(t)...)
		}
		if rapid.IntRange(0, 2).Draw(t, "batch") == 0 {
			p.bursts = append(p.bursts, genBatch(t)...)
		}
		if rapid.IntRange(0, 2).Draw(t, "crowd") == 0 {
			p.bursts = append(p.bursts, genCrowd(t)...)
		}
		if rapid.IntRange(0, 2).Draw(t, "walk") == 0 {
			p.bursts = append(p.bursts, []step{{
				verb: "walk", name: rapid.SampledFrom(onTheWay).Draw(t, "what"), slot: rapid.IntRange(0, 5).Draw(t, "where"),
				off: rapid.Uint64Range(0, 9<<10).Draw(t, "size"),
			}})
		}
		p.bursts = append(p.bursts, rapid.SliceOfN(rapid.Custom(genStep), 1, 10).Draw(t, "burst"))
	}
	return p
}

// genSmallFile is what scp does for a small file, up or down, perhaps with something else in between.
func genSmallFile(t *rapid.T) [][]step {
	name, size := rapid.SampledFrom(names).Draw(t, "small"), rapid.IntRange(1, 9<<10).Draw(t, "length")
	row := []step{
		{verb: "open", name: name, flags: openRead}, {verb: "read", size: 20 << 10}, {verb: "read on", size: 20 << 10}, {verb: "close"},
	}
	if rapid.Bool().Draw(t, "up") {
		row = smallUpload(name, rapid.SampledFrom(openings[2:6]).Draw(t, "way"), size)
	}
	return inTurn(t, row, rapid.Bool().Draw(t, "disturbed"))
}

// genBatch is what scp does for several files, of which some cannot be written, perhaps with something else in between.
func genBatch(t *rapid.T) (bursts [][]step) {
	flags := rapid.SampledFrom(openings[3:6]).Draw(t, "way")
	dir := rapid.SampledFrom([]string{"", "dir/"}).Draw(t, "into")
	for range rapid.IntRange(2, 6).Draw(t, "files") {
		name := rapid.SampledFrom([]string{"c", "d", "e", "taken"}).Draw(t, "file")
		row := smallUpload(dir+name, flags, rapid.IntRange(0, 9<<10).Draw(t, "length"))
		bursts = append(bursts, inTurn(t, row, rapid.IntRange(0, 5).Draw(t, "disturbed") == 5)...)
	}
	return bursts
}

// genCrowd is what a client does that has several small files under way at a time, each up or down, perhaps with other things in between: every burst is one
// request of each, in any order. Names repeat now and then.
func genCrowd(t *rapid.T) (bursts [][]step) {
	var rows [][]step
	flags := rapid.SampledFrom([]uint32{openWrite | openCreate, openWrite | openCreate | openTrunc, openRead | openWrite | openCreate | openTrunc}).Draw(t, "way")
	for range rapid.IntRange(2, 6).Draw(t, "files") {
		name := rapid.SampledFrom([]string{"n0", "n1", "n2", "n3", "n4", "dir/n0", "dir/N1", "./n0", "dir/../n1", "a", "dir/c", "link"}).Draw(t, "file")
		row := smallUpload(name, flags, rapid.IntRange(0, 9<<10).Draw(t, "length"))
		if rapid.IntRange(0, 3).Draw(t, "fetched") == 0 {
			row = []step{{verb: "open", name: name, flags: openRead}, {verb: "read", size: 20 << 10}, {verb: "fstat"}, {verb: "close"}}
		}
		rows = append(rows, row)
	}
	for at := range rows[0] {
		var burst []step
		for i, row := range rows {
			s := row[at]
			if at > 0 {
				s.slot = len(rows) - 1 - i // unless an OPEN failed; then it is another's
			}
			burst = append(burst, s)
		}
		if rows[0][at].verb == "close" {
			for i := range burst {
				burst[i].slot = i
			}
		}
		burst = rapid.Permutation(burst).Draw(t, "order")
		for range rapid.IntRange(0, 6).Draw(t, "beside") / 5 {
			burst = slices.Insert(burst, rapid.IntRange(0, len(burst)).Draw(t, "where"), rapid.Custom(genStep).Draw(t, "what"))
		}
		bursts = append(bursts, burst)
	}
	return bursts
}

func smallUpload(name string, flags uint32, size int) []step {
	return []step{
		{verb: "open", name: name, flags: flags},
		{verb: "write", size: size, content: byte(size)},
		{verb: "ftruncate", off: uint64(size)},
		{verb: "close"},
	}
}

// inTurn makes each step of a row wait for the one before. If it is disturbed another is put between them.
func inTurn(t *rapid.T, row []step, disturbed bool) (bursts [][]step) {
	if disturbed {
		at := rapid.IntRange(1, len(row)).Draw(t, "at")
		row = slices.Insert(row, at, rapid.Custom(genStep).Draw(t, "disturbance"))
	}
	for _, s := range row {
		bursts = append(bursts, []step{s})
	}
	return bursts
}

// requests turns a step into requests; "run" is a row of READs or WRITEs that follow each other, as a copy makes
// them, and "churn" writes about the same place again and again.
func (s step) requests(h []byte, got int) []func(uint32) []byte {
	data := make([]byte, s.size)
	for i := range data {
		data[i] = s.content + byte(i*7)
	}
	named := func(typ byte, body []byte) func(uint32) []byte {
		return func(id uint32) []byte { return finish(append(begin(nil, typ, id), body...)) }
	}
	path := func() []byte { return appendString(nil, []byte(s.name)) }
	size := func(b []byte) []byte {
		return binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint32(b, attrSize), s.off)
	}
	mode := func(b []byte) []byte {
		return binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, attrMode), 0o600|uint32(s.content&0o77))
	}
	switch s.verb {
	case "settle", "walk":
		return nil
	case "open":
		flags := binary.BigEndian.AppendUint32(path(), s.flags)
		if s.content%2 == 0 {
			return []func(uint32) []byte{named(typOpen, binary.BigEndian.AppendUint32(flags, 0))}
		}
		return []func(uint32) []byte{named(typOpen, mode(flags))}
	case "close", "fstat":
		typ := map[string]byte{"close": typClose, "fstat": typFstat}[s.verb]
		return []func(uint32) []byte{func(id uint32) []byte { return newOnHandle(typ, id, h) }}
	case "write":
		return []func(uint32) []byte{writeOf(h, s.off, data)}
	case "read on": // from where the last data ended, had it been read from the start
		return []func(uint32) []byte{readOf(h, uint64(got), uint32(s.size))}
	case "read":
		return []func(uint32) []byte{readOf(h, s.off, uint32(s.size))}
	case "run":
		return s.run(h, data)
	case "churn":
		return s.churn(h, named(typStat, path()))
	case "stat", "lstat", "readlink", "remove", "rmdir":
		typ := map[string]byte{"stat": typStat, "lstat": typLstat, "readlink": typReadlink, "remove": typRemove, "rmdir": typRmdir}[s.verb]
		return []func(uint32) []byte{named(typ, path())}
	case "rename", "symlink":
		typ := map[string]byte{"rename": typRename, "symlink": typSymlink}[s.verb]
		return []func(uint32) []byte{named(typ, appendString(path(), []byte(s.to)))}
	case "mkdir":
		return []func(uint32) []byte{named(typMkdir, binary.BigEndian.AppendUint32(path(), 0))}
	case "chmod":
		return []func(uint32) []byte{named(typSetstat, mode(path()))}
	case "fchmod":
		return []func(uint32) []byte{named(typFsetstat, mode(appendString(nil, h)))}
	case "truncate":
		return []func(uint32) []byte{named(typSetstat, size(path()))}
	case "ftruncate":
		return []func(uint32) []byte{named(typFsetstat, size(appendString(nil, h)))}
	default:
		body := appendString(nil, []byte(s.verb))
		return []func(uint32) []byte{named(typExtended, append(body, extensions[s.verb](h, []byte(s.name), []byte(s.to))...))}
	}
}

// run is a copy's row of WRITEs and READs.
func (s step) run(h, data []byte) (row []func(uint32) []byte) {
	n := 1 + s.size/2
	for i := range 6 {
		row = append(row, writeOf(h, uint64(i*n), data[:min(n, len(data))]), readOf(h, uint64(i*n), uint32(n)))
	}
	return row
}

// churn is a row of WRITEs about one place, perhaps with looks at it in between.
func (s step) churn(h []byte, stat func(uint32) []byte) (row []func(uint32) []byte) {
	for i := range 8 {
		piece := bytes.Repeat([]byte{s.content + byte(i)}, s.size/(1+i%3))
		row = append(row, writeOf(h, s.off+uint64(i*100), piece))
		if s.slot != s.size%3 {
			continue
		}
		row = append(row, stat, readOf(h, s.off, uint32(s.size)))
	}
	return row
}

// plant makes the tree that programs start with.
func plant(t fatal, dir string) {
	must := func(err error) {
		if err != nil {
			t.Fatalf("%v", err)
		}
	}
	must(os.Mkdir(filepath.Join(dir, "dir"), 0o755))
	must(os.WriteFile(filepath.Join(dir, "a"), noise(70<<10), 0o644))
	must(os.Mkdir(filepath.Join(dir, "taken"), 0o755)) // no file can be written here
	must(os.Mkdir(filepath.Join(dir, "dir/taken"), 0o755))
	must(os.Mkdir(filepath.Join(dir, "many"), 0o755))
	for i := range 6 {
		must(os.WriteFile(filepath.Join(dir, "many", fmt.Sprint(i)), noise(i*1000), 0o644))
	}
	must(os.WriteFile(filepath.Join(dir, "dir/c"), noise(5<<10), 0o600))
	must(os.Symlink("a", filepath.Join(dir, "link")))
	must(os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "hard")))
}

// tree describes everything below dir.
func tree(t fatal, dir string) []string {
	var out []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%s %v", strings.TrimPrefix(path, dir), info.Mode())
		if info.Mode().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d %x", len(b), checksum(b))
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatalf("%v", err)
	}
	return out
}

func checksum(b []byte) uint64 {
	sum := uint64(14695981039346656037)
	for _, c := range b {
		sum = (sum ^ uint64(c)) * 1099511628211
	}
	return sum
}

// The same program, straight to a server and over lanes: every answer and the final tree must be the same.
func TestLanesCannotBeSeen(t *testing.T) {
	for name, c := range map[string]struct {
		start    server
		oneByOne bool // pkg/sftp's server works on several requests at once, so bursts have more than one right outcome even straight
		reuses   bool // handles, so that they can be foretold
	}{"openssh": {openssh(), false, true}, "library": {library, true, false}} {
		t.Run(name, func(t *testing.T) {
			if !c.oneByOne {
				needServer(t)
			}
			count, early, placed, belated := &tally{}, int64(0), int64(0), 0
			rapid.Check(t, func(rt *rapid.T) {
				p := genProgram(rt)
				straight, over := scratch(t, rt), scratch(t, rt)
				near := c.start(t, straight)
				want := p.play(rt, &player{wire: greet(rt, near), dir: straight}, c.oneByOne, func(*wire) {})
				near.Close()

				cfg := small(p.lanes)
				if p.small {
					cfg.Bulk = 1 << 20
				}
				cfg.eager = p.eager
				count.hear(&cfg)
				news := &newsreader{}
				cfg.Log = slog.New(news)
				striped, result := behind(t, c.start, over, cfg, p.lane)
				got := p.play(rt, &player{wire: greet(rt, striped), dir: over}, c.oneByOne, func(w *wire) { news.await(w, 50) })
				striped.CloseWrite()
				if err := <-result; err != nil {
					rt.Fatalf("Run: %v", err)
				}
				striped.Close()
				early += news.early.Load()
				placed += news.placed.Load()
				if p.death >= 0 && strings.Contains(strings.Join(answersOf(got), "\n"), "a lane was lost") {
					return // the one thing that a client may notice, and is meant to
				}
				belated += belatedly(want, got)
				if diff := cmp.Diff(promised(want, got), answersOf(got)); diff != "" {
					rt.Fatalf("answers differ (- straight, + striped):\n%s", diff)
				}
				if diff := cmp.Diff(tree(rt, straight), tree(rt, over)); diff != "" {
					rt.Fatalf("trees differ (- straight, + striped):\n%s", diff)
				}
			})
			t.Logf("%d transfers striped, %d files placed, %d lanes opened, %d lost, early answers in %d programs, %d refusals of OPEN told late",
				count.striped(), placed, count.opened, count.lost, early, belated)
			if count.striped() == 0 || early == 0 || placed == 0 || belated == 0 && c.reuses {
				t.Error("no file was striped or placed, nothing was answered early, or no OPEN failed that was, so it was not tested")
			}
		})
	}
}

func scratch(t *testing.T, rt *rapid.T) string {
	dir := t.TempDir()
	plant(rt, dir)
	return dir
}

func (p program) lane(l io.ReadWriteCloser) io.ReadWriteCloser {
	f := &faulty{ReadWriteCloser: l, delay: p.delay}
	f.left.Store(math.MaxInt64)
	if p.death >= 0 {
		f.left.Store(p.death)
	}
	return f
}
