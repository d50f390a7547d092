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
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// stays checks that a file opened with flags is never striped, whatever is written, and that the file is as the server alone would leave it.
func stays(t *testing.T, r *rig, h []byte, name string, before int) {
	t.Helper()
	want := append(noise(before), noise(64<<10)...)
	for _, p := range r.do(pieces(h, want, before, 4<<10)...) {
		mustOK(t, p)
	}
	if code, text := r.close(h); code != statusOK {
		t.Errorf("close: %d %s", code, text)
	}
	if !bytes.Equal(r.content(t, name), want) {
		t.Error("the file on the server is not what was sent")
	}
	r.end()
	if n := r.count.striped(); n != 0 {
		t.Errorf("%d transfers were striped", n)
	}
}

func TestAppendingStaysOnOneLane(t *testing.T) {
	r := newRig(t, 4, openssh(), nil)
	if err := os.WriteFile(filepath.Join(r.dir, "f"), noise(100), 0o644); err != nil {
		t.Fatal(err)
	}
	stays(t, r, r.open("f", openWrite|openAppend), "f", 100)
}

// A file that its owner may not open again, as one made under umask 0777 is.
func TestFileThatCannotBeOpenedTwice(t *testing.T) {
	unprivileged := func(t testing.TB, dir string) io.ReadWriteCloser {
		near, far := pipe(t)
		cmd := exec.Command(opensshServer, "-e", "-u", "0777")
		cmd.Dir, cmd.Stdin, cmd.Stdout = dir, far.r, far.w
		asNobody(cmd)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		far.Close()
		near.end = func() { cmd.Wait() }
		return near
	}
	r := newRig(t, 4, unprivileged, func(r *rig, _ *Config) {
		for dir := r.dir; dir != filepath.Clean(os.TempDir()); dir = filepath.Dir(dir) {
			if err := os.Chmod(dir, 0o777); err != nil {
				t.Fatal(err)
			}
		}
	})
	h := r.open("f", openWrite|openCreate)
	mustOK(t, r.one(writeOf(h, 0, noise(4<<10))))
	r.news.await(r.wire, math.MaxInt)
	if os.Geteuid() != 0 {
		defer os.Chmod(filepath.Join(r.dir, "f"), 0o600)
	}
	want := noise(64 << 10)
	for _, p := range r.do(pieces(h, want, 0, 4<<10)...) {
		mustOK(t, p)
	}
	info, err := os.Stat(filepath.Join(r.dir, "f"))
	if err != nil || info.Mode().Perm() != 0 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	os.Chmod(filepath.Join(r.dir, "f"), 0o600)
	if code, text := r.close(h); code != statusOK {
		t.Errorf("close: %d %s", code, text)
	}
	if !bytes.Equal(r.content(t, "f"), want) {
		t.Error("the file on the server is not what was sent")
	}
	if n := r.count.striped(); n != 0 {
		t.Errorf("%d transfers were striped", n)
	}
	r.end()
}

// Without another lane to be had everything goes over the first.
func TestNoFurtherLane(t *testing.T) {
	refused := make(chan struct{}, 8)
	r := newRig(t, 4, openssh(), func(_ *rig, cfg *Config) {
		cfg.Open = func(context.Context) (io.ReadWriteCloser, error) { return nil, errors.New("too many sessions") }
		cfg.OnLane = func(c LaneChange) {
			if c.Err != nil {
				refused <- struct{}{}
			}
		}
	})
	h := r.open("f", openWrite|openCreate|openTrunc)
	mustOK(t, r.one(writeOf(h, 0, noise(4<<10))))
	<-refused
	stays(t, r, h, "f", 0)
}

// A server that greets in another way is another server.
func TestLaneToAnotherServer(t *testing.T) {
	refused := make(chan error, 8)
	r := newRig(t, 2, openssh(), func(r *rig, cfg *Config) {
		cfg.Open = func(context.Context) (io.ReadWriteCloser, error) { return library(t, r.dir), nil }
		cfg.OnLane = func(c LaneChange) { refused <- c.Err }
	})
	h := r.open("f", openWrite|openCreate|openTrunc)
	mustOK(t, r.one(writeOf(h, 0, noise(4<<10))))
	if err := <-refused; !errors.Is(err, errOther) {
		t.Errorf("refused with %v", err)
	}
	stays(t, r, h, "f", 0)
}

// Written from the end to the beginning, with holes: what is striped has them too.
func TestSparseWrites(t *testing.T) {
	r := newRig(t, 4, openssh(), nil)
	h, sent := r.upload("f")
	want := append(sent, make([]byte, 1<<20)...)
	var row []func(uint32) []byte
	for off := len(want) - 1000; off > len(sent); off -= 10000 {
		copy(want[off:], noise(1000))
		row = append(row, writeOf(h, uint64(off), noise(1000)))
	}
	for _, p := range r.do(row...) {
		mustOK(t, p)
	}
	if code, text := r.close(h); code != statusOK {
		t.Errorf("close: %d %s", code, text)
	}
	if !bytes.Equal(r.content(t, "f"), want) {
		t.Error("the file on the server is not what was sent")
	}
	r.end()
}

// A log that somebody writes to while it is read: the part that does not change is right, and there is no failure.
func TestFileThatGrowsWhileItIsRead(t *testing.T) {
	r := newRig(t, 4, openssh(), func(_ *rig, cfg *Config) { cfg.ReadAhead = 64 << 10 })
	path := filepath.Join(r.dir, "log")
	want := noise(200 << 10)
	if err := os.WriteFile(path, want, 0o644); err != nil {
		t.Fatal(err)
	}
	h := r.open("log", openRead)
	r.one(readOf(h, 0, 4<<10)).release()
	r.striped("log")
	log, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	var got []byte
	for {
		if len(got) < 300<<10 {
			more := noise(4 << 10)
			if _, err := log.Write(more); err != nil {
				t.Fatal(err)
			}
			want = append(want, more...)
		}
		p := r.one(readOf(h, uint64(len(got)), 8<<10))
		if p.typ() == typStatus {
			if code, text := statusOf(t, p); code != statusEOF {
				t.Fatalf("status %d: %s", code, text)
			}
			break
		}
		data, _ := parseString(p.body())
		got = append(got, data...)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, not the %d of the file", len(got), len(want))
	}
	if code, text := r.close(h); code != statusOK {
		t.Errorf("close: %d %s", code, text)
	}
	r.end()
}

// Lanes without work end, and others come when there is work again.
func TestIdleLanesClose(t *testing.T) {
	changes := make(chan LaneChange, 16)
	r := newRig(t, 2, openssh(), func(_ *rig, cfg *Config) {
		cfg.Idle = time.Millisecond
		cfg.OnLane = func(c LaneChange) { changes <- c }
	})
	for lane := 1; lane <= 2; lane++ {
		h, _ := r.upload(fmt.Sprint("f", lane))
		if code, text := r.close(h); code != statusOK {
			t.Errorf("close: %d %s", code, text)
		}
		if c := <-changes; c != (LaneChange{Lane: lane, Open: true}) {
			t.Errorf("first %+v", c)
		}
		if c := <-changes; c != (LaneChange{Lane: lane}) {
			t.Errorf("then %+v", c)
		}
	}
	r.end()
}

// A context that ends, ends everything; what was uploaded has no hole.
func TestContextEnds(t *testing.T) {
	needServer(t)
	dir, news := t.TempDir(), &newsreader{}
	near, far := pipe(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	start := openssh()
	cfg := small(3)
	cfg.Log = slog.New(news)
	cfg.Open = func(context.Context) (io.ReadWriteCloser, error) {
		f := &faulty{ReadWriteCloser: start(t, dir), delay: time.Millisecond}
		f.left.Store(math.MaxInt64)
		return f, nil
	}
	first := start(t, dir)
	result := make(chan error, 1)
	go func() { result <- serve(ctx, far, first, cfg) }()
	r := &rig{wire: greet(t, near), near: near, news: news, dir: dir}
	h, sent := r.upload("f")
	want := append(sent, noise(200<<10)...)
	for i, b := range pieces(h, want, len(sent), 4<<10) {
		if i == 30 {
			cancel(errors.New("access was revoked"))
		}
		if _, err := near.Write(b(uint32(1000 + i))); err != nil {
			break
		}
	}
	if err := <-result; err == nil || err.Error() != "access was revoked" {
		t.Errorf("Run: %v", err)
	}
	near.Close()
	if got := r.content(t, "f"); !bytes.HasPrefix(want, got) || len(got) < len(sent) {
		t.Errorf("%d bytes, not the beginning of what was sent", len(got))
	}
}

// Requests nobody knows pass as they are, and so does a stream that is not SFTP's end.
func TestWhatIsNotUnderstoodPasses(t *testing.T) {
	client, clientFar := pipe(t)
	serverNear, server := pipe(t)
	result := make(chan error, 1)
	go func() { result <- serve(context.Background(), clientFar, serverNear, Config{MaxLanes: 4}) }()
	up := [][]byte{
		{0, 0, 0, 1, 77},
		{0, 0, 0, 9, 78, 0, 0, 0, 1, 1, 2, 3, 4},
		newInit(),
		{0, 0, 0, 5, typRead, 0, 0, 0, 2},
		{0, 0, 0, 6, typExtended, 0, 0, 0, 3, 9},
	}
	for _, b := range up {
		client.Write(b)
	}
	got := make([]byte, len(bytes.Join(up, nil)))
	if _, err := io.ReadFull(server, got); err != nil || !bytes.Equal(got, bytes.Join(up, nil)) {
		t.Errorf("the server got %x, %v", got, err)
	}
	down := []byte{0, 0, 0, 9, 199, 9, 9, 9, 9, 1, 2, 3, 4}
	server.Write(down)
	got = make([]byte, len(down))
	if _, err := io.ReadFull(client, got); err != nil || !bytes.Equal(got, down) {
		t.Errorf("the client got %x, %v", got, err)
	}
	client.Write([]byte{0xff, 0xff, 0xff, 0xff})
	if err := <-result; !errors.Is(err, ErrPacket) {
		t.Errorf("Run: %v, want ErrPacket", err)
	}
	client.Close()
	server.Close()
}

// padded is a request with more behind its fields, as clients send it that hand out a whole buffer for the part of it that they filled.
func padded(request func(uint32) []byte) func(uint32) []byte {
	return func(id uint32) []byte { return finish(append(request(id), noise(3000)...)) }
}

// What is behind the fields of a request is nobody's: neither is a file kept on one lane for it, nor a request sent under a handle that the server does not know.
func TestMoreThanTheFields(t *testing.T) {
	upload := func(t *testing.T, r *rig, h, sent []byte) {
		t.Helper()
		want := append(sent, noise(100<<10)...)
		var row []func(uint32) []byte
		for _, w := range pieces(h, want, len(sent), 4<<10) {
			row = append(row, padded(w))
		}
		for _, p := range r.do(row...) {
			mustOK(t, p)
		}
		for _, ask := range []func(uint32) []byte{
			func(id uint32) []byte { return newOnHandle(typFstat, id, h) }, readOf(h, 0, 10), readOf(h, 1<<64-2, 3), padded(trimTo(h, uint64(len(want)))),
		} {
			if _, text, _ := parseStatus(r.one(padded(ask)).body()); text == "Failure" {
				t.Errorf("a request failed: %x", ask(0))
			}
		}
		mustOK(t, r.one(padded(func(id uint32) []byte { return newOnHandle(typClose, id, h) })))
		if !bytes.Equal(r.content(t, "f"), want) {
			t.Error("the file on the server is not what was sent")
		}
	}
	t.Run("striped", func(t *testing.T) {
		r := newRig(t, 4, openssh(), nil)
		h, sent := r.upload("f")
		upload(t, r, h, sent)
		r.end()
		if r.count.striped() == 0 {
			t.Error("nothing was striped")
		}
	})
	t.Run("opened early", func(t *testing.T) {
		r, _ := batchRig(t, 1)
		h := r.open("f", openWrite|openCreate)
		if len(h) < 16 {
			t.Fatalf("handle %x is the server's", h)
		}
		upload(t, r, h, nil)
	})
}
