package main

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestSilenceAfterInput: where the protocol has no half-close, an answer may take as long as it likes as long as something comes, and silence ends it. Before
// the end of the input, silence is nothing.
func TestSilenceAfterInput(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, machine := net.Pipe()
		in, typed := io.Pipe()
		var out strings.Builder
		ended := make(chan error, 1)
		began := time.Now()
		go func() { ended <- relay(context.Background(), far, stdio{in, &out}, leastAhead) }()
		go func() {
			time.Sleep(time.Hour)
			_ = typed.Close()
			for range 5 {
				time.Sleep(lingerAfterEnd - time.Second)
				_, _ = machine.Write([]byte("slow "))
			}
		}()
		if err := <-ended; err != nil || out.String() != "slow slow slow slow slow " {
			t.Errorf("%q and %v", out.String(), err)
		}
		if took, want := time.Since(began), time.Hour+5*(lingerAfterEnd-time.Second)+lingerAfterEnd; took != want {
			t.Errorf("it took %v, want %v", took, want)
		}
	})
}

// TestJoinEndsAfterSilence is the same for a forwarded connection.
func TestJoinEndsAfterSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, near := net.Pipe()
		far, machine := net.Pipe()
		go func() {
			_, _ = io.WriteString(client, "question")
			time.Sleep(time.Hour)
			_, _ = machine.Read(make([]byte, 100))
			_ = client.Close()
		}()
		count := func(int) {}
		began := time.Now()
		if err := join(context.Background(), near, far, count, count); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		if took := time.Since(began); took != time.Hour+lingerAfterEnd {
			t.Errorf("it took %v", took)
		}
	})
}
