package stripe

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

// narrow is a lane that moves so many bytes per second each way, as a session of Session Manager does.
type narrow struct {
	io.ReadWriteCloser
	rate     float64
	in, out  time.Time // until when what has passed keeps the direction busy
	writing  sync.Mutex
	readings sync.Mutex
}

func (n *narrow) pass(until *time.Time, bytes int) {
	now := time.Now()
	if grace := now.Add(-50 * time.Millisecond); until.Before(grace) { // a sleep that took too long is made up for
		*until = grace
	}
	*until = until.Add(time.Duration(float64(bytes) / n.rate * float64(time.Second)))
	time.Sleep(until.Sub(now))
}

func (n *narrow) Read(b []byte) (int, error) {
	n.readings.Lock()
	defer n.readings.Unlock()
	c, err := n.ReadWriteCloser.Read(b[:min(len(b), 16<<10)])
	n.pass(&n.in, c)
	return c, err
}

func (n *narrow) Write(b []byte) (int, error) {
	n.writing.Lock()
	defer n.writing.Unlock()
	n.pass(&n.out, len(b))
	return n.ReadWriteCloser.Write(b)
}

// copyFile moves size bytes as OpenSSH's sftp and scp do: 64 requests of 32 KiB under way.
func copyFile(b *testing.B, w *wire, up bool, size int) {
	const piece, depth = 32 << 10, 64
	flags := uint32(openRead)
	if up {
		flags = openWrite | openCreate | openTrunc
	}
	h := w.open("f", flags)
	data := make([]byte, piece)
	free := make(chan struct{}, depth)
	sent := make(chan error, 1)
	go func() {
		for off := 0; off < size; off += piece {
			free <- struct{}{}
			build := readOf(h, uint64(off), piece)
			if up {
				build = writeOf(h, uint64(off), data)
			}
			if _, err := w.rw.Write(build(w.id + uint32(off/piece))); err != nil {
				sent <- err
				return
			}
		}
		sent <- nil
	}()
	for off := 0; off < size; off += piece {
		p := w.read()
		if code, text, _ := parseStatus(p.body()); p.typ() == typStatus && code != statusOK {
			b.Fatalf("status %d: %s", code, text)
		}
		p.release()
		<-free
	}
	if err := <-sent; err != nil {
		b.Fatal(err)
	}
	w.id += uint32(size / piece)
	if code, text := w.close(h); code != statusOK {
		b.Fatalf("close: %d %s", code, text)
	}
}

// BenchmarkLanes shows how throughput grows with lanes that move 2 MB/s each.
func BenchmarkLanes(b *testing.B) {
	for _, up := range []bool{true, false} {
		for _, lanes := range []int{1, 2, 4, 8} {
			b.Run(fmt.Sprintf("up=%v/lanes=%d", up, lanes), func(b *testing.B) { benchLanes(b, up, lanes, 2e6, 8<<20) })
		}
	}
}

// BenchmarkUnlimited shows what the engine itself costs: pipes without limits, one lane and four.
func BenchmarkUnlimited(b *testing.B) {
	for _, up := range []bool{true, false} {
		for _, lanes := range []int{1, 4} {
			b.Run(fmt.Sprintf("up=%v/lanes=%d", up, lanes), func(b *testing.B) { benchLanes(b, up, lanes, 0, 64<<20) })
		}
	}
}

func benchLanes(b *testing.B, up bool, lanes int, rate float64, size int) {
	needServer(b)
	dir := b.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), make([]byte, size), 0o644); err != nil {
		b.Fatal(err)
	}
	start := func(t testing.TB, dir string) io.ReadWriteCloser {
		s := openssh()(t, dir)
		if rate > 0 {
			s = &narrow{ReadWriteCloser: s, rate: rate}
		}
		return s
	}
	near, result := behind(b, start, dir, Config{MaxLanes: lanes, Bulk: 256 << 10}, nil)
	w := greet(b, near)
	b.SetBytes(int64(size))
	b.ReportAllocs()
	b.ResetTimer()
	for range b.N {
		copyFile(b, w, up, size)
	}
	b.StopTimer()
	near.CloseWrite()
	<-result
	near.Close()
}

// distant is a lane whose answers take a while, as many of them as there are.
type distant struct {
	io.ReadWriteCloser
	arrived chan arrival
	rest    []byte
}

type arrival struct {
	due  time.Time
	data []byte
}

func newDistant(s io.ReadWriteCloser, rtt time.Duration) *distant {
	d := &distant{ReadWriteCloser: s, arrived: make(chan arrival, 4096)}
	go func() {
		defer close(d.arrived)
		for {
			b := make([]byte, 16<<10)
			n, err := s.Read(b)
			if err != nil {
				return
			}
			d.arrived <- arrival{time.Now().Add(rtt), b[:n]}
		}
	}()
	return d
}

func (d *distant) Read(b []byte) (int, error) {
	if len(d.rest) == 0 {
		a, ok := <-d.arrived
		if !ok {
			return 0, io.EOF
		}
		time.Sleep(time.Until(a.due))
		d.rest = a.data
	}
	n := copy(b, d.rest)
	d.rest = d.rest[n:]
	return n, nil
}

// BenchmarkCrowd shows how many small files a second pass, 32 at a time, over lanes that move 0.7 MB/s each with a round trip of 30 ms.
func BenchmarkCrowd(b *testing.B) {
	for _, size := range []int{4 << 10, 100 << 10} {
		for _, up := range []bool{true, false} {
			for _, lanes := range []int{1, 8} {
				b.Run(fmt.Sprintf("size=%dK/up=%v/lanes=%d", size>>10, up, lanes), func(b *testing.B) { benchCrowd(b, size, up, lanes) })
			}
		}
	}
}

func benchCrowd(b *testing.B, size int, up bool, lanes int) {
	needServer(b)
	dir := b.TempDir()
	start := func(t testing.TB, dir string) io.ReadWriteCloser {
		return newDistant(&narrow{ReadWriteCloser: openssh()(t, dir), rate: 0.7e6}, 30*time.Millisecond)
	}
	near, result := behind(b, start, dir, Config{MaxLanes: lanes}, nil)
	client, err := sftp.NewClientPipe(near, near)
	if err != nil {
		b.Fatal(err)
	}
	data := make([]byte, size)
	copyOne := func(i int) error {
		name := fmt.Sprintf("f%d", i)
		if !up {
			f, err := client.Open(name)
			if err != nil {
				return err
			}
			_, err = f.WriteTo(io.Discard)
			return errors.Join(err, f.Close())
		}
		f, err := client.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
		if err != nil {
			return err
		}
		_, err = f.Write(data)
		return errors.Join(err, f.Close())
	}
	if !up {
		for i := range b.N {
			if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("f%d", i)), data, 0o644); err != nil {
				b.Fatal(err)
			}
		}
	}
	b.SetBytes(int64(size))
	b.ResetTimer()
	var group errgroup.Group
	group.SetLimit(32)
	for i := range b.N {
		group.Go(func() error { return copyOne(i) })
	}
	if err := group.Wait(); err != nil {
		b.Fatal(err)
	}
	b.StopTimer()
	client.Close()
	<-result
}
