// Package testkit is what the tests of several packages share: bounded waiting, connections, and the plain side of an SSH login.
package testkit

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/freeport"
)

// Patience bounds every wait of these tests; nothing is asserted about how long things take. It is for the slowest machine, busy with other tests, under the
// race detector: only a failure waits so long.
const Patience = time.Minute

// Receive waits for one value.
func Receive[T any](t testing.TB, from <-chan T, what string) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(Patience):
		t.Fatalf("waited too long for %s", what)
		panic("unreachable")
	}
}

// Within runs f and fails the test if it does not return.
func Within(t testing.TB, what string, f func()) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		f()
	}()
	Receive(t, done, what)
}

// Eventually waits for a state that nobody announces.
func Eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	limit := time.Now().Add(Patience)
	for !holds() {
		if time.Now().After(limit) {
			t.Fatalf("waited too long for %s", what)
		}
		time.Sleep(time.Millisecond)
	}
}

// SocketDir is a directory with a name that leaves room for a unix socket's (104 bytes on some systems), which t.TempDir is not where TMPDIR is long, and that every
// user may use. It is removed when the test ends.
func SocketDir(t testing.TB) string {
	t.Helper()
	parent := "/tmp"
	if runtime.GOOS == "windows" {
		parent = ""
	}
	dir, err := os.MkdirTemp(parent, "s") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil { //nolint:gosec // nothing secret is in it
		t.Fatal(err)
	}
	return dir
}

// TCPPair is a TCP connection over loopback, closed when the test ends.
func TCPPair(t testing.TB) (near, far net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	accepted := make(chan net.Conn, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			close(accepted)
			return
		}
		accepted <- conn
	}()
	if near, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	far = Receive(t, accepted, "the TCP connection")
	t.Cleanup(func() { _, _ = near.Close(), far.Close() })
	return near, far
}

// ServeTCP runs handle for each connection to a free port of host, until the test ends, and gives the address. It closes the connections, and bounds each by
// Patience.
func ServeTCP(t testing.TB, host string, handle func(net.Conn)) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	all.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			all.Go(func() {
				defer func() { _ = conn.Close() }()
				_ = conn.SetDeadline(time.Now().Add(Patience))
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		all.Wait()
	})
	return listener.Addr().String()
}

// FreeAddress is an address of loopback where nobody listens just now, for a program that is told where to.
func FreeAddress(t testing.TB) string {
	t.Helper()
	address, err := freeport.Address()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// rigHostKey is made once; making keys is not what is tested.
var rigHostKey = sync.OnceValue(func() ssh.Signer {
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		panic(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		panic(err)
	}
	return signer
})

// ServeSSH is the server's side of a login that asks for nothing. It gives nil where the client has gone meanwhile.
func ServeSSH(t testing.TB, conn net.Conn) (ssh.Conn, <-chan ssh.NewChannel, <-chan *ssh.Request) {
	config := &ssh.ServerConfig{NoClientAuth: true, ServerVersion: "SSH-2.0-OpenSSH_compatible_test"}
	config.AddHostKey(rigHostKey())
	server, chans, reqs, err := ssh.NewServerConn(conn, config)
	switch {
	case errors.Is(err, net.ErrClosed), errors.Is(err, syscall.ECONNRESET), errors.Is(err, syscall.EPIPE), errors.Is(err, io.EOF):
		return nil, nil, nil // the client has ended while it was connecting
	case err != nil:
		t.Errorf("test server: %v", err)
		return nil, nil, nil
	}
	return server, chans, reqs
}

// Drain serves what a test left alone, until the connection ends. reqs is nil when nobody is to answer them.
func Drain(opens <-chan ssh.NewChannel, reqs <-chan *ssh.Request) {
	if reqs != nil {
		go ssh.DiscardRequests(reqs)
	}
	for nc := range opens {
		_ = nc.Reject(ssh.Prohibited, "")
	}
}

// CountInput accepts a channel and answers, as "session got 5 bytes", when its input has ended: a peer that waits for the half-close.
func CountInput(nc ssh.NewChannel) {
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	go ssh.DiscardRequests(reqs)
	in, _ := io.ReadAll(ch)
	fmt.Fprintf(ch, "%s got %d bytes", nc.ChannelType(), len(in))
	_ = ch.CloseWrite()
	_ = ch.Close()
}

// Buffer is a buffer for several goroutines.
type Buffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
