package bridge

import (
	"io"
	"testing"

	"golang.org/x/crypto/ssh"
)

// BenchmarkDownload is one session in full flow: two decryptions and two encryptions of each byte, on this machine's processors together.
func BenchmarkDownload(b *testing.B) {
	r := newRig(b, rigOptions{onOpen: runProgram(func(ch ssh.Channel, _ string) { _, _ = io.Copy(ch, zeros{}) })})
	ch, reqs := r.channel(b, "session", nil)
	go ssh.DiscardRequests(reqs)
	if ok, err := ch.SendRequest("shell", true, nil); !ok {
		b.Fatal(err)
	}
	piece := make([]byte, bulkCopy)
	b.SetBytes(bulkCopy)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := io.ReadFull(ch, piece); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkKeystroke is one byte there and back.
func BenchmarkKeystroke(b *testing.B) {
	r := newRig(b, rigOptions{onOpen: runProgram(func(ch ssh.Channel, _ string) { _, _ = io.Copy(ch, ch) })})
	ch, reqs := r.channel(b, "session", nil)
	go ssh.DiscardRequests(reqs)
	if ok, err := ch.SendRequest("shell", true, nil); !ok {
		b.Fatal(err)
	}
	key := make([]byte, 1)
	b.ReportAllocs()
	for b.Loop() {
		_, _ = ch.Write(key)
		if _, err := io.ReadFull(ch, key); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkCommand is a session from open to exit status.
func BenchmarkCommand(b *testing.B) {
	r := newRig(b, rigOptions{onOpen: runProgram(func(ch ssh.Channel, _ string) {
		exitWith(ch, 0)
		_ = ch.Close()
	})})
	for b.Loop() {
		s, err := r.asClient().NewSession()
		if err != nil {
			b.Fatal(err)
		}
		if err := s.Run("true"); err != nil {
			b.Fatal(err)
		}
	}
}
