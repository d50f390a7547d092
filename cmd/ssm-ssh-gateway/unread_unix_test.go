//go:build unix

package main

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// TestRelayEndsWithItsReader: an ssh that was killed has closed both ends, and no program on the machine is kept waiting for the minute in which an answer might come.
func TestRelayEndsWithItsReader(t *testing.T) {
	near, machine := net.Pipe()
	defer func() { _ = machine.Close() }()
	reader, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = out.Close() }()
	heard := make(chan error, 1)
	go func() {
		_, err := io.ReadAll(machine)
		heard <- err
	}()
	ended := make(chan error, 1)
	go func() {
		ended <- relay(t.Context(), near, stdio{strings.NewReader("the end of the input"), out}, leastAhead)
	}()
	if err := reader.Close(); err != nil {
		t.Fatal(err)
	}
	if err := testkit.Receive(t, heard, "the end of the session"); err != nil {
		t.Error(err)
	}
	if err := testkit.Receive(t, ended, "the end of the relay"); err != nil && !errors.Is(err, io.ErrClosedPipe) { // net.Pipe's net.ErrClosed
		t.Error(err)
	}
}

// TestReadOutputIsNotUnread: a pipe with a reader is waited for, until there is no need any more.
func TestReadOutputIsNotUnread(t *testing.T) {
	reader, out, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = reader.Close(), out.Close() }()
	done, answer := make(chan struct{}), make(chan bool, 1)
	go func() { answer <- awaitUnread(out, done) }()
	close(done)
	if testkit.Receive(t, answer, "the answer") {
		t.Error("a pipe with a reader is called unread")
	}
}
