package stripe

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/pkg/sftp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func noise(n int) []byte {
	b := make([]byte, n)
	r := rand.New(rand.NewPCG(1, uint64(n)))
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// client is pkg/sftp's, as a peer that nobody here wrote.
func client(t testing.TB, near *duplex, result <-chan error) *sftp.Client {
	t.Helper()
	c, err := sftp.NewClientPipe(near, near, sftp.UseConcurrentWrites(true))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		near.Close()
		if err := <-result; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return c
}

func servers(t *testing.T, run func(t *testing.T, start server)) {
	t.Run("openssh", func(t *testing.T) {
		needServer(t)
		run(t, openssh())
	})
	t.Run("library", func(t *testing.T) { run(t, library) })
}

func TestUploadAndDownload(t *testing.T) {
	servers(t, func(t *testing.T, start server) {
		dir, count, news := t.TempDir(), &tally{}, &newsreader{}
		cfg := Config{MaxLanes: 4, Bulk: 64 << 10, Log: slog.New(news)}
		count.hear(&cfg)
		near, result := behind(t, start, dir, cfg, nil)
		c := client(t, near, result)
		// begin does the first part of a transfer and waits for lanes: the whole may be over before they are there.
		begin := func(part func() error) {
			t.Helper()
			was := news.striped.Load()
			if err := part(); err != nil {
				t.Fatal(err)
			}
			testkit.Eventually(t, "lanes for a file", func() bool { return news.striped.Load() > was })
		}
		want := noise(8<<20 + 123)
		f, err := c.OpenFile("up", os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
		if err != nil {
			t.Fatal(err)
		}
		begin(func() error {
			_, err := f.Write(want[:1<<20])
			return err
		})
		if _, err := f.ReadFrom(bytes.NewReader(want[1<<20:])); err != nil {
			t.Fatal(err)
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(filepath.Join(dir, "up")); !bytes.Equal(got, want) {
			t.Fatal("the file on the server is not what was sent")
		}
		g, err := c.Open("up")
		if err != nil {
			t.Fatal(err)
		}
		var got bytes.Buffer
		begin(func() error {
			_, err := io.CopyN(&got, g, 1<<20)
			return err
		})
		if _, err := g.WriteTo(&got); err != nil {
			t.Fatal(err)
		}
		if err := g.Close(); err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got.Bytes(), want) {
			t.Fatal("what was received is not the file on the server")
		}
		if n := count.striped(); n != 2 {
			t.Errorf("%d transfers were striped, want 2: %+v", n, count.transfers)
		}
		for _, tr := range count.transfers {
			if tr.Path != "up" || tr.Read+tr.Written != int64(len(want)) || tr.Err != nil {
				t.Errorf("reported %+v", tr)
			}
		}
	})
}

// A client that asks for one piece at a time gets what was read ahead.
func TestReadAheadOfAShallowClient(t *testing.T) {
	servers(t, func(t *testing.T, start server) {
		dir, count := t.TempDir(), &tally{}
		want := noise(1<<20 + 77)
		if err := os.WriteFile(filepath.Join(dir, "f"), want, 0o600); err != nil {
			t.Fatal(err)
		}
		cfg := Config{MaxLanes: 3, Bulk: 16 << 10}
		count.hear(&cfg)
		near, result := behind(t, start, dir, cfg, nil)
		c := client(t, near, result)
		f, err := c.Open("f")
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		var got []byte
		buf := make([]byte, 8<<10)
		for {
			n, err := f.Read(buf)
			got = append(got, buf[:n]...)
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, want) {
			t.Fatal("what was received is not the file on the server")
		}
	})
}

// A WRITE far behind the end of a file leaves zeros in between, which a READ that came before it must not find: not on a lane that is late either.
func TestReadsAtTheEndBeforeAWriteBehindIt(t *testing.T) {
	const size, late = 64 << 10, 8
	m := inTheMiddle(openssh())
	r := newRig(t, 2, openssh(), func(r *rig, cfg *Config) {
		cfg.Open = func(context.Context) (io.ReadWriteCloser, error) { return m.start(t, r.dir), nil }
	})
	if err := os.WriteFile(filepath.Join(r.dir, "f"), noise(size), 0o644); err != nil {
		t.Fatal(err)
	}
	h := r.open("f", openRead)
	r.one(readOf(h, 0, 4<<10)).release()
	r.striped("f")
	w := r.open("f", openWrite)
	written := make(chan struct{})
	m.turnInto(func(pkt *packet) [][]byte {
		if pkt.typ() == typRead {
			select {
			case <-written:
			case <-time.After(10 * time.Millisecond): // nobody writes before these are answered, as it should be
			}
		}
		return [][]byte{pkt.bytes()}
	})
	var row []byte
	for i := range late {
		row = append(row, readOf(h, uint64(size+i*100), 100)(r.id+uint32(i))...)
	}
	r.write(append(row, writeOf(w, 1<<20, []byte("end"))(r.id+late)...))
	for range late + 1 {
		p := r.read()
		if id, _ := p.id(); id == r.id+late {
			mustOK(t, p)
			close(written)
		} else if p.typ() != typStatus {
			t.Error("a READ found what was written after it")
		}
	}
	r.id += late + 1
	m.turnInto(nil)
	r.close(w)
	r.close(h)
	if err := r.end(); err != nil {
		t.Errorf("Run: %v", err)
	}
}
