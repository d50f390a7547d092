//go:build unix

package main

import (
	"errors"
	"net"
	"syscall"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// TestABrokenConnectionIsNoHangup: the connection to AWS may break at any time, and is replaced.
func TestABrokenConnectionIsNoHangup(t *testing.T) {
	ctx, stop := untilHangup(t.Context())
	defer stop()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	near, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = near.Close() }()
	far, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = far.Close()
	for !errors.Is(err, syscall.EPIPE) {
		if _, err = near.Write([]byte{0}); err != nil && !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
			t.Fatal(err)
		}
	}
	if ctx.Err() != nil {
		t.Error("taken for a hangup")
	}
	// A true one ends it, and the process lives.
	if err := syscall.Kill(syscall.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	testkit.Receive(t, ctx.Done(), "the hangup")
}
