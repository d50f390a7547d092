package stripe

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// rig is a proxy over OpenSSH's servers whose lanes the test can reach.
type rig struct {
	*wire
	near   *duplex
	result <-chan error
	news   *newsreader
	count  *tally
	dir    string

	mu    sync.Mutex
	lanes []*faulty // the first not among them
}

func newRig(t *testing.T, lanes int, start server, adjust func(*rig, *Config)) *rig {
	t.Helper()
	needServer(t)
	r := &rig{news: &newsreader{}, count: &tally{}, dir: t.TempDir()}
	cfg := small(lanes)
	cfg.ReadAhead = -1
	cfg.Log = slog.New(r.news)
	r.count.hear(&cfg)
	cfg.Open = func(context.Context) (io.ReadWriteCloser, error) {
		return r.furtherLane(start(t, r.dir)), nil
	}
	if adjust != nil {
		adjust(r, &cfg)
	}
	r.near, r.result = behind(t, start, r.dir, cfg, nil)
	r.wire = greet(t, r.near)
	t.Cleanup(func() { r.near.Close() })
	return r
}

// furtherLane makes a lane of a server's stream, which kill and cut end.
func (r *rig) furtherLane(of io.ReadWriteCloser) *faulty {
	f := &faulty{ReadWriteCloser: of}
	f.left.Store(math.MaxInt64)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lanes = append(r.lanes, f)
	return f
}

// upload writes 4 KiB, by which the file becomes worth striping, and waits until it is striped.
func (r *rig) upload(path string) (h []byte, sent []byte) {
	r.t.Helper()
	h, sent = r.open(path, openWrite|openCreate|openTrunc), noise(4<<10)
	r.one(writeOf(h, 0, sent)).release()
	r.striped(path)
	return h, sent
}

func (r *rig) striped(path string) {
	r.t.Helper()
	was := r.news.striped.Load()
	r.news.await(r.wire, math.MaxInt)
	if r.news.striped.Load() == was && r.news.refused.Load() > 0 {
		r.t.Fatalf("%s was never striped", path)
	}
}

func (r *rig) kill(after int64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, l := range r.lanes {
		l.left.Store(after)
	}
}

func (r *rig) content(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(r.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// end closes the client's side as a client that is done does.
func (r *rig) end() error {
	r.near.CloseWrite()
	return <-r.result
}

// pieces are WRITEs of data from off on.
func pieces(h []byte, data []byte, off, size int) (row []func(uint32) []byte) {
	for at := off; at < len(data); at += size {
		row = append(row, writeOf(h, uint64(at), data[at:min(at+size, len(data))]))
	}
	return row
}

func statusOf(t *testing.T, p *packet) (uint32, string) {
	t.Helper()
	code, text, err := parseStatus(p.body())
	if p.typ() != typStatus || err != nil {
		t.Fatalf("type %d, not a status: %v", p.typ(), err)
	}
	return code, text
}

func mustOK(t *testing.T, p *packet) {
	t.Helper()
	if code, text := statusOf(t, p); code != statusOK {
		t.Errorf("status %d: %s", code, text)
	}
}

func TestLaneDeathDuringUpload(t *testing.T) {
	for _, after := range []int64{1, 1000, 4200, 9000, 20000, 50000} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			r := newRig(t, 4, openssh(), nil)
			h, sent := r.upload("f")
			r.kill(after)
			want := sent
			r.untilALaneDies(t, func() {
				from := len(want)
				want = append(want, noise(400<<10)...)
				for _, p := range r.do(pieces(h, want, from, 4<<10)...) {
					mustOK(t, p)
				}
			})
			if code, text := r.close(h); code != statusOK {
				t.Errorf("close: %d %s", code, text)
			}
			if !bytes.Equal(r.content(t, "f"), want) {
				t.Error("the file on the server is not what was sent")
			}
			if err := r.end(); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

// untilALaneDies does something as often as it takes for a lane to carry as much as it is given to live: how the work is spread is the machine's business.
func (r *rig) untilALaneDies(t *testing.T, do func()) {
	t.Helper()
	for range 100 {
		if do(); r.count.died() || t.Failed() {
			return
		}
	}
	t.Error("no lane died")
}

func TestLaneDeathDuringDownload(t *testing.T) {
	for _, after := range []int64{1, 5000, 20000, 50000} {
		t.Run(fmt.Sprint(after), func(t *testing.T) {
			r := newRig(t, 4, openssh(), nil)
			want := noise(400<<10 + 5)
			if err := os.WriteFile(filepath.Join(r.dir, "f"), want, 0o644); err != nil {
				t.Fatal(err)
			}
			h := r.open("f", openRead)
			r.one(readOf(h, 0, 4<<10)).release()
			r.striped("f")
			r.kill(after)
			var row []func(uint32) []byte
			for off := 0; off <= len(want); off += 4 << 10 {
				row = append(row, readOf(h, uint64(off), 4<<10))
			}
			r.untilALaneDies(t, func() {
				var got []byte
				for _, p := range r.do(row...) {
					data, err := parseString(p.body())
					if p.typ() != typData || err != nil {
						t.Fatalf("type %d, not data: %v", p.typ(), err)
					}
					got = append(got, data...)
				}
				if !bytes.Equal(got, want) {
					t.Error("what was read is not the file")
				}
			})
			if code, _ := statusOf(t, r.one(readOf(h, uint64(len(want)), 1))); code != statusEOF {
				t.Errorf("behind the end: status %d", code)
			}
			r.close(h)
			if err := r.end(); err != nil {
				t.Errorf("Run: %v", err)
			}
		})
	}
}

// A write that a lost lane may still carry out must not meet another write of the same range without the client hearing of it.
func TestLostWriteThatIsWrittenAgain(t *testing.T) {
	r := newRig(t, 2, openssh(), nil)
	h, sent := r.upload("f")
	r.kill(100)
	want := append(sent, noise(64<<10)...)
	for !r.count.died() { // the lane dies of the first write it is given, which may be one of a later row
		for _, p := range r.do(pieces(h, want, len(sent), 4<<10)...) {
			mustOK(t, p)
		}
	}
	for _, p := range r.do(pieces(h, bytes.ToUpper(want), len(sent), 4<<10)...) {
		mustOK(t, p)
	}
	if code, text := r.close(h); code != statusFailure || !strings.Contains(text, "may be damaged") {
		t.Errorf("close: %d %q, want a failure that says why", code, text)
	}
	r.end()
}

// While the lanes come up the name comes to mean something else: they must not be used.
func TestReplacedBeforeTheLanesOpenIt(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"another file": func(path string) error {
			return errors.Join(os.WriteFile(path+"2", noise(9000), 0o644), os.Rename(path+"2", path))
		},
		"nothing":   os.Remove,
		"directory": func(path string) error { return errors.Join(os.Remove(path), os.Mkdir(path, 0o755)) },
		"device":    func(path string) error { return errors.Join(os.Remove(path), os.Symlink("/dev/null", path)) },
	} {
		t.Run(name, func(t *testing.T) {
			replaced := make(chan struct{})
			r := newRig(t, 2, openssh(), func(_ *rig, cfg *Config) {
				open := cfg.Open
				cfg.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
					<-replaced
					return open(ctx)
				}
			})
			h := r.open("f", openWrite|openCreate|openTrunc)
			keep, err := os.Open(filepath.Join(r.dir, "f"))
			if err != nil {
				t.Fatal(err)
			}
			defer keep.Close()
			want := noise(64 << 10)
			mustOK(t, r.one(writeOf(h, 0, want[:4<<10])))
			if err := replace(filepath.Join(r.dir, "f")); err != nil {
				t.Fatal(err)
			}
			close(replaced)
			r.news.await(r.wire, math.MaxInt)
			if n := r.news.striped.Load(); n != 0 {
				t.Error("a lane with another file was used")
			}
			for _, p := range r.do(pieces(h, want, 4<<10, 4<<10)...) {
				mustOK(t, p)
			}
			if code, text := r.close(h); code != statusOK {
				t.Errorf("close: %d %s", code, text)
			}
			if got, _ := io.ReadAll(keep); !bytes.Equal(got, want) {
				t.Error("the open file is not what was sent")
			}
			r.end()
		})
	}
}

// A disk that is full in the middle leaves the beginning of the file and no hole, since clients resume at the size they find.
func TestFullDiskLeavesNoHole(t *testing.T) {
	limited := func(t testing.TB, dir string) io.ReadWriteCloser {
		return process(t, dir, "/bin/bash", "-c", "trap '' XFSZ; ulimit -f 100; exec "+opensshServer+" -e")
	}
	r := newRig(t, 4, limited, nil)
	h, sent := r.upload("f")
	want := append(sent, noise(200<<10)...)
	failed := 0
	for _, p := range r.do(pieces(h, want, len(sent), 3000)...) {
		if code, _ := statusOf(t, p); code != statusOK {
			failed++
		}
	}
	if failed == 0 {
		t.Error("no write failed")
	}
	if code, text := r.close(h); code != statusOK {
		t.Errorf("close: %d %s", code, text)
	}
	if got := r.content(t, "f"); !bytes.HasPrefix(want, got) || len(got) < 90<<10 {
		t.Errorf("%d bytes, not the beginning of what was sent", len(got))
	}
	r.end()
}

// A client that vanishes leaves everything it sent.
func TestClientLeavesInTheMiddle(t *testing.T) {
	r := newRig(t, 4, openssh(), nil)
	h, sent := r.upload("f")
	want := append(sent, noise(300<<10)...)
	for i, b := range pieces(h, want, len(sent), 4<<10) {
		r.write(b(uint32(1000 + i)))
	}
	go io.Copy(io.Discard, r.near)
	if err := r.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
	if !bytes.Equal(r.content(t, "f"), want) {
		t.Error("not everything that was sent arrived")
	}
	if n := len(r.count.transfers); n != 1 || !errors.Is(r.count.transfers[0].Err, errUnclosed) {
		t.Errorf("reported %+v", r.count.transfers)
	}
}

// The first lane dies in the middle of an upload: what stays is a beginning without holes.
func TestFirstLaneDeathLeavesNoHole(t *testing.T) {
	lost := 0
	for after := range int64(6) {
		first := &faulty{}
		var once sync.Once
		start := func(t testing.TB, dir string) io.ReadWriteCloser {
			s := openssh()(t, dir)
			once.Do(func() {
				first.ReadWriteCloser, s = s, first
				first.left.Store(math.MaxInt64)
			})
			return s
		}
		r := newRig(t, 4, start, nil)
		h, sent := r.upload("f")
		first.left.Store(1 + after*10000)
		want := append(sent, noise(400<<10)...)
		go func() {
			for i, b := range pieces(h, want, len(sent), 4<<10) {
				r.near.Write(b(uint32(1000 + i)))
			}
		}()
		go io.Copy(io.Discard, r.near)
		switch err := <-r.result; {
		case errors.Is(err, ErrLaneLost):
			lost++
		case err != nil: // there is no error if nothing was unanswered at that moment
			t.Errorf("Run: %v, want ErrLaneLost", err)
		}
		if got := r.content(t, "f"); !bytes.HasPrefix(want, got) || len(got) < len(sent) {
			t.Errorf("%d bytes, not the beginning of what was sent", len(got))
		}
	}
	if lost == 0 {
		t.Error("the first lane never died in the middle of an upload")
	}
}

// liar is a lane that changes answers of one type.
type liar struct {
	io.ReadWriteCloser
	change func(*packet)
	out    bytes.Buffer
}

func (l *liar) Read(b []byte) (int, error) {
	if l.out.Len() == 0 {
		p, err := readPacket(bufioOf(l.ReadWriteCloser))
		if err != nil {
			return 0, err
		}
		l.change(p)
		l.out.Write(p.bytes())
	}
	return l.out.Read(b)
}

// A lane that sees another file at CLOSE fails the transfer.
func TestLanesThatDisagreeAtClose(t *testing.T) {
	closing := make(chan struct{})
	r := newRig(t, 2, openssh(), func(_ *rig, cfg *Config) {
		open := cfg.Open
		cfg.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
			l, err := open(ctx)
			return &liar{ReadWriteCloser: l, change: func(p *packet) {
				select {
				case <-closing:
					if p.typ() == typAttrs {
						p.bytes()[least+4+7] ^= 1 // the last byte of the size
					}
				default:
				}
			}}, err
		}
	})
	h, _ := r.upload("f")
	close(closing)
	if code, text := r.close(h); code != statusFailure || !strings.Contains(text, "different files") {
		t.Errorf("close: %d %q, want a failure that says why", code, text)
	}
	if tr := r.count.transfers; len(tr) != 1 || tr[0].Err == nil {
		t.Errorf("reported %+v", tr)
	}
	r.end()
}

// A lane whose answers make no sense, or claim less than the first lane would, changes nothing for the client.
func TestLaneThatAnswersNonsense(t *testing.T) {
	for name, change := range map[string]func(*packet){
		"an id nobody used": func(p *packet) {
			if p.typ() == typData {
				p.setID(12345)
			}
		},
		"too much data": func(p *packet) {
			if p.typ() == typData {
				p.bytes()[least+3]++
			}
		},
		"an early end": func(p *packet) {
			if id, ok := p.id(); ok && p.typ() == typData {
				*p = *made(newStatus(id, statusEOF, "over"))
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, 3, openssh(), func(_ *rig, cfg *Config) {
				open := cfg.Open
				cfg.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
					l, err := open(ctx)
					return &liar{ReadWriteCloser: l, change: change}, err
				}
			})
			want := noise(100 << 10)
			if err := os.WriteFile(filepath.Join(r.dir, "f"), want, 0o644); err != nil {
				t.Fatal(err)
			}
			h := r.open("f", openRead)
			r.one(readOf(h, 0, 4<<10)).release()
			r.striped("f")
			var row []func(uint32) []byte
			for off := 0; off < len(want); off += 4 << 10 {
				row = append(row, readOf(h, uint64(off), 4<<10))
			}
			var got []byte
			for _, p := range r.do(row...) {
				data, _ := parseString(p.body())
				got = append(got, data...)
			}
			if !bytes.Equal(got, want) {
				t.Error("what was read is not the file")
			}
			r.close(h)
			r.end()
		})
	}
}

// A lane that goes silent is given up, and its work done by others.
func TestStalledLane(t *testing.T) {
	silent := make(chan struct{})
	lost := make(chan LaneChange, 8)
	r := newRig(t, 2, openssh(), func(_ *rig, cfg *Config) {
		cfg.Stall = time.Second // less than a busy machine may need to bring a lane up would end it before
		cfg.OnLane = func(c LaneChange) {
			if c.Err != nil {
				lost <- c
			}
		}
		open := cfg.Open
		cfg.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
			l, err := open(ctx)
			return &mutable{ReadWriteCloser: l, silent: silent, closed: make(chan struct{})}, err
		}
	})
	h, sent := r.upload("f")
	close(silent)
	want := append(sent, noise(100<<10)...)
	for stalled := false; !stalled; { // the silent lane may be given nothing of a row that the first one is quick enough for
		for _, p := range r.do(pieces(h, want, len(sent), 4<<10)...) {
			mustOK(t, p)
		}
		select {
		case c := <-lost:
			stalled = true
			if !errors.Is(c.Err, errStalled) {
				t.Errorf("the lane ended with %v", c.Err)
			}
		default:
		}
	}
	if code, text := r.close(h); code != statusOK {
		t.Errorf("close: %d %s", code, text)
	}
	if !bytes.Equal(r.content(t, "f"), want) {
		t.Error("the file on the server is not what was sent")
	}
	r.end()
}

// mutable is a lane that says nothing more once silent is closed.
type mutable struct {
	io.ReadWriteCloser
	silent chan struct{}
	once   sync.Once
	closed chan struct{}
}

func (m *mutable) Read(b []byte) (int, error) {
	n, err := m.ReadWriteCloser.Read(b)
	select {
	case <-m.silent:
		<-m.closed
		return 0, io.ErrClosedPipe
	default:
		return n, err
	}
}

func (m *mutable) Close() error {
	m.once.Do(func() { close(m.closed) })
	return m.ReadWriteCloser.Close()
}
