package stripe

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"os/exec"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"go.uber.org/goleak"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(proxyFor); dir != "" {
		if err := serveAsProxy(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m)
}

// opensshServer is the server nearly every machine has.
const opensshServer = "/usr/lib/openssh/sftp-server"

// duplex is one end of a stream whose two directions close by themselves.
type duplex struct {
	r, w *os.File
	once sync.Once
	end  func() // after Close
}

func (d *duplex) Read(b []byte) (int, error)  { return d.r.Read(b) }
func (d *duplex) Write(b []byte) (int, error) { return d.w.Write(b) }
func (d *duplex) CloseWrite() error           { return d.w.Close() }

func (d *duplex) Close() error {
	d.once.Do(func() {
		d.w.Close()
		d.r.Close()
		if d.end != nil {
			d.end()
		}
	})
	return nil
}

func pipe(t testing.TB) (a, b *duplex) {
	t.Helper()
	a, b, err := newPipe()
	if err != nil {
		t.Fatal(err)
	}
	return a, b
}

func newPipe() (a, b *duplex, err error) {
	r1, w1, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	r2, w2, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	return &duplex{r: r1, w: w2}, &duplex{r: r2, w: w1}, nil
}

// server starts SFTP servers whose working directory is a given one.
type server func(t testing.TB, dir string) io.ReadWriteCloser

func openssh(args ...string) server {
	return func(t testing.TB, dir string) io.ReadWriteCloser {
		return process(t, dir, append([]string{opensshServer, "-e"}, args...)...)
	}
}

func process(t testing.TB, dir string, argv ...string) io.ReadWriteCloser {
	t.Helper()
	p, err := startProcess(dir, argv...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// startProcess runs a program that speaks SFTP on its standard input and output.
func startProcess(dir string, argv ...string) (io.ReadWriteCloser, error) {
	near, far, err := newPipe()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdin, cmd.Stdout = dir, far.r, far.w
	err = cmd.Start()
	far.Close()
	near.end = func() { cmd.Wait() }
	return near, err
}

// library is a server of another make: pkg/sftp's.
func library(t testing.TB, dir string) io.ReadWriteCloser {
	near, far := pipe(t)
	s, err := sftp.NewServer(far, sftp.WithServerWorkingDirectory(dir))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.Serve()
		far.Close()
	}()
	near.end = func() { <-done }
	return near
}

func needServer(t testing.TB) {
	t.Helper()
	if _, err := os.Stat(opensshServer); err != nil {
		t.Skipf("OpenSSH's sftp-server is not installed: %v", err)
	}
}

// faulty is a lane that delays what it carries, and dies when told or after so many bytes.
type faulty struct {
	io.ReadWriteCloser
	delay time.Duration // at most, per write and read
	left  atomic.Int64  // bytes until death
}

var errDied = errors.New("the lane died")

func (f *faulty) spend(n int) error {
	if f.delay > 0 {
		time.Sleep(rand.N(f.delay))
	}
	if f.left.Add(-int64(n)) < 0 {
		f.Close()
		return errDied
	}
	return nil
}

func (f *faulty) CloseWrite() error {
	if h, ok := f.ReadWriteCloser.(interface{ CloseWrite() error }); ok {
		return h.CloseWrite()
	}
	return f.Close()
}

func (f *faulty) Read(b []byte) (int, error) {
	n, err := f.ReadWriteCloser.Read(b)
	if err == nil {
		if err = f.spend(n); err != nil {
			n = 0
		}
	}
	return n, err
}

func (f *faulty) Write(b []byte) (int, error) {
	if err := f.spend(len(b)); err != nil {
		return f.ReadWriteCloser.Write(b[:len(b)/2]) // part of a packet gets through
	}
	return f.ReadWriteCloser.Write(b)
}

// tally counts what a proxy reported.
type tally struct {
	mu        sync.Mutex
	transfers []Transfer
	opened    int
	lost      int
}

func (c *tally) striped() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := 0
	for _, t := range c.transfers {
		if t.Lanes > 1 {
			n++
		}
	}
	return n
}

func (c *tally) hear(cfg *Config) {
	cfg.OnTransfer = func(t Transfer) {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.transfers = append(c.transfers, t)
	}
	cfg.OnLane = func(l LaneChange) {
		c.mu.Lock()
		defer c.mu.Unlock()
		if l.Open {
			c.opened++
		} else if l.Err != nil {
			c.lost++
		}
	}
}

func (c *tally) died() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.lost > 0
}

// small are limits that make little files large.
func small(lanes int) Config {
	return Config{MaxLanes: lanes, Bulk: 2 << 10, LaneWindow: 16 << 10, ReadAhead: 64 << 10}
}

// serve is New, Run and Wait for a client whose stream ends by itself when its server has.
func serve(ctx context.Context, client, first io.ReadWriteCloser, cfg Config) error {
	p := New(client, first, cfg)
	err := p.Run(ctx)
	_ = client.Close()
	p.Wait()
	return err
}

// tooLong is when a proxy is ended that waits for something that does not come, so that its test fails. None takes so long, however busy the machine is.
const tooLong = 5 * testkit.Patience

var errTooLong = errors.New("the test takes too long")

// behind starts a proxy over lanes to servers in dir, and returns the client's end and the result of serve.
func behind(t testing.TB, start server, dir string, cfg Config, lane func(io.ReadWriteCloser) io.ReadWriteCloser) (*duplex, <-chan error) {
	t.Helper()
	near, far := pipe(t)
	if lane == nil {
		lane = func(l io.ReadWriteCloser) io.ReadWriteCloser { return l }
	}
	if cfg.Open == nil {
		cfg.Open = func(context.Context) (io.ReadWriteCloser, error) { return lane(start(t, dir)), nil }
	}
	first := start(t, dir)
	result := make(chan error, 1)
	ctx, end := context.WithCancelCause(context.Background())
	limit := time.AfterFunc(tooLong, func() {
		end(errTooLong)
		near.Close()
	})
	go func() {
		defer limit.Stop()
		result <- serve(ctx, far, first, cfg)
	}()
	return near, result
}

// wire is a client that speaks packets.
type wire struct {
	t  fatal
	rw io.ReadWriteCloser
	r  *bufio.Reader
	id uint32
}

type fatal interface {
	Helper()
	Fatalf(string, ...any)
}

func greet(t fatal, rw io.ReadWriteCloser) *wire {
	t.Helper()
	w := &wire{t: t, rw: rw, r: bufio.NewReader(rw)}
	w.write(newInit())
	if p := w.read(); p.typ() != typVersion {
		t.Fatalf("greeted with type %d", p.typ())
	}
	return w
}

func (w *wire) write(b []byte) {
	w.t.Helper()
	if _, err := w.rw.Write(b); err != nil {
		w.t.Fatalf("write: %v", err)
	}
}

func (w *wire) read() *packet {
	w.t.Helper()
	p, err := readPacket(w.r)
	if err != nil {
		w.t.Fatalf("read: %v", err)
	}
	return p
}

// do sends requests at once and returns their answers in the order of the requests.
func (w *wire) do(build ...func(id uint32) []byte) []*packet {
	w.t.Helper()
	base := w.id
	w.id += uint32(len(build))
	sent := make(chan error, 1)
	go func() {
		var err error
		for i, b := range build {
			if _, e := w.rw.Write(b(base + uint32(i))); err == nil {
				err = e
			}
		}
		sent <- err
	}()
	answers := make([]*packet, len(build))
	for range build {
		p := w.read()
		id, ok := p.id()
		if !ok || id-base >= uint32(len(build)) || answers[id-base] != nil {
			w.t.Fatalf("an answer of type %d to request %d, which is none of %d to %d", p.typ(), id, base, w.id-1)
		}
		answers[id-base] = p
	}
	if err := <-sent; err != nil {
		w.t.Fatalf("write: %v", err)
	}
	return answers
}

func (w *wire) one(build func(id uint32) []byte) *packet {
	w.t.Helper()
	return w.do(build)[0]
}

func (w *wire) open(path string, flags uint32) []byte {
	w.t.Helper()
	p := w.one(func(id uint32) []byte { return newOpen(id, []byte(path), flags) })
	h, err := parseString(p.body())
	if p.typ() != typHandle || err != nil {
		w.t.Fatalf("open %s: %s", path, refusal(p))
	}
	return h
}

func (w *wire) close(h []byte) (code uint32, text string) {
	w.t.Helper()
	p := w.one(func(id uint32) []byte { return newOnHandle(typClose, id, h) })
	code, text, err := parseStatus(p.body())
	if err != nil {
		w.t.Fatalf("close: %v", err)
	}
	return code, text
}

func writeOf(h []byte, off uint64, data []byte) func(uint32) []byte {
	return func(id uint32) []byte {
		p := newPacket(len(data))
		copy(p.bytes(), data)
		return append([]byte(nil), p.readdress(id, h, off, len(data)).bytes()...)
	}
}

func readOf(h []byte, off uint64, n uint32) func(uint32) []byte {
	return func(id uint32) []byte { return appendRead(nil, id, h, off, n) }
}

// newsreader hears from the log that files were striped, or why not.
type newsreader struct {
	slog.Handler
	striped, refused atomic.Int64
	early            atomic.Int64 // sessions in which answers were given early
	placed           atomic.Int64 // files, known at the end
	looked, vouched  atomic.Int64 // lanes that were compared with the first, and those on which files may be placed
	seen             int64
}

func (n *newsreader) Enabled(context.Context, slog.Level) bool { return true }

func (n *newsreader) Handle(_ context.Context, r slog.Record) error {
	switch r.Message {
	case "striping a file":
		n.striped.Add(1)
	case "a lane was looked at":
		n.looked.Add(1)
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "takes_files" && a.Value.Bool() {
				n.vouched.Add(1)
			}
			return true
		})
	case "files were placed on lanes":
		r.Attrs(func(a slog.Attr) bool {
			if a.Key == "count" {
				n.placed.Add(a.Value.Int64())
			}
			return true
		})
	case "SFTP answers were given early":
		n.early.Add(1)
	case "no further lane for a file":
		n.refused.Add(1)
	}
	return nil
}

// await makes harmless round trips until it is decided whether a file more is striped; at most so many.
func (n *newsreader) await(w *wire, most int) {
	w.t.Helper()
	for range most {
		if now := n.striped.Load() + n.refused.Load(); now > n.seen {
			n.seen = now
			return
		}
		w.one(func(id uint32) []byte { return newOnHandle(typStat, id, []byte(".")) }).release()
	}
}

// bufioOf reads no further than it is asked to.
func bufioOf(r io.Reader) *bufio.Reader { return bufio.NewReaderSize(oneByte{r}, 16) }

type oneByte struct{ io.Reader }

func (o oneByte) Read(b []byte) (int, error) { return o.Reader.Read(b[:1]) }
