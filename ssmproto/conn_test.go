package ssmproto

import (
	"bytes"
	"crypto/sha256"
	"io"
	"math/rand/v2"
	"testing"
)

func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	r := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = r.Read(b)
	return b
}

func TestBytesArriveBothWays(t *testing.T) {
	f := newFake(t)
	c := f.dial()
	up, down := noise(1, 300_000), noise(2, 300_000)
	go f.write(down)
	go func() {
		if _, err := c.Write(up); err != nil {
			t.Errorf("write: %v", err)
		}
	}()
	got := make([]byte, len(down))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatalf("read: %v", err)
	}
	if sha256.Sum256(got) != sha256.Sum256(down) {
		t.Error("what was read is not what was sent")
	}
	f.await("the upload", func() bool { return len(f.received) == len(up) })
	if !bytes.Equal(f.received, up) {
		t.Error("what arrived is not what was written")
	}
	f.with(func() {
		f.onFlag = func(flag Flag) {
			if flag != FlagTerminateSession {
				t.Errorf("flag %d", flag)
			}
		}
	})
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	if f.terminated != 0 {
		t.Error("the session was terminated though the agent had ended it")
	}
}
