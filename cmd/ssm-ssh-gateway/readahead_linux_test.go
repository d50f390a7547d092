package main

import (
	"io"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// taking is a session that takes a piece when it is asked for.
type taking chan []byte

func (s taking) Write(p []byte) (int, error) {
	s <- append([]byte(nil), p...)
	return len(p), nil
}

// TestLittleWaitsInFrontOfASession: while the session takes nothing, its pipe fills at once, and what is read is a small piece.
func TestLittleWaitsInFrontOfASession(t *testing.T) {
	in, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = in.Close() }()
	session, copied := make(taking), make(chan error, 1)
	ahead := readAhead(0, 0)
	go func() { copied <- copyShallow(session, in, ahead) }()
	if _, err := io.WriteString(typed, "SSH-2.0-x\r\n"); err != nil {
		t.Fatal(err)
	}
	<-session // the pipe has its size now
	if _, err := io.WriteString(typed, "x"); err != nil {
		t.Fatal(err)
	}
	held := fill(t, typed)
	if pages := (ahead/os.Getpagesize() + 1) * os.Getpagesize(); held > pages+ahead {
		t.Errorf("%d bytes wait, want %d in the pipe and %d read at most", held, pages, ahead)
	}
	_ = typed.Close()
	for got := 0; got < held+1; {
		piece := <-session
		if got += len(piece); len(piece) > ahead {
			t.Errorf("a piece has %d bytes, more than %d", len(piece), ahead)
		}
	}
	if err := <-copied; err != nil {
		t.Error(err)
	}
}

// fill writes to a pipe until it takes no more, and says how much that was.
func fill(t *testing.T, pipe *os.File) (held int) {
	t.Helper()
	raw, err := pipe.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	err = raw.Write(func(fd uintptr) bool {
		for {
			n, err := unix.Write(int(fd), make([]byte, 1<<20))
			if err != nil {
				return true
			}
			held += n
		}
	})
	if err != nil || held == 0 {
		t.Fatalf("the pipe took %d bytes: %v", held, err)
	}
	return held
}
