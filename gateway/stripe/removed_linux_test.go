package stripe

import (
	"context"
	"io"
	"math"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// What the client has closed and removed is open nowhere: its space is free.
func TestRemovedFileIsOpenNowhere(t *testing.T) {
	r := newRig(t, 4, openssh(), func(_ *rig, cfg *Config) {
		open := cfg.Open
		cfg.Open = func(ctx context.Context) (io.ReadWriteCloser, error) {
			l, err := open(ctx)
			if err != nil {
				return nil, err
			}
			slow := &faulty{ReadWriteCloser: l, delay: 20 * time.Millisecond}
			slow.left.Store(math.MaxInt64)
			return slow, nil
		}
	})
	path := filepath.Join(r.dir, "f")
	for range 5 {
		if err := os.WriteFile(path, noise(200<<10), 0o644); err != nil {
			t.Fatal(err)
		}
		h := r.open("f", openRead)
		r.one(readOf(h, 0, 4<<10)).release()
		r.striped("f")
		r.close(h)
		mustOK(t, r.one(func(id uint32) []byte { return newNamed(typRemove, id, []byte("f")) }))
		if where := holders(t, path+" (deleted)"); len(where) > 0 {
			t.Errorf("still open: %v", where)
		}
	}
	if r.count.striped() == 0 {
		t.Error("no file was striped")
	}
	r.end()
}

// holders lists the file descriptors of whatever processes that lead to a file.
func holders(t *testing.T, file string) (where []string) {
	t.Helper()
	descriptors, err := filepath.Glob("/proc/[0-9]*/fd/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range descriptors {
		if to, err := os.Readlink(fd); err == nil && to == file {
			where = append(where, fd)
		}
	}
	return where
}
