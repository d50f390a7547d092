package gateway

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

var (
	chanConnLocal  = &net.TCPAddr{IP: net.IPv4(10, 0, 0, 1), Port: 22}
	chanConnRemote = &net.TCPAddr{IP: net.IPv4(198, 51, 100, 7), Port: 40123}
)

// chanConnPair is a channel between two SSH connections: wrapped on one side, bare on the other.
func chanConnPair(t *testing.T) (wrapped net.Conn, bare ssh.Channel) {
	t.Helper()
	near, far := testkit.TCPPair(t)
	inbound := make(chan bridge.Leg, 1)
	go func() { inbound <- sshServer(t, far) }()
	conn, chans, reqs, err := ssh.NewClientConn(near, "gateway", &ssh.ClientConfig{User: "u", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	go testkit.Drain(chans, reqs)
	server := testkit.Receive(t, inbound, "the server")
	go ssh.DiscardRequests(server.Reqs)
	accepted := make(chan net.Conn, 1)
	go func() {
		nc := <-server.Chans
		ch, chReqs, err := nc.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		accepted <- newChanConn(ch, chReqs, chanConnLocal, chanConnRemote)
		for range server.Chans {
		}
	}()
	bare, bareReqs, err := conn.OpenChannel("direct-tcpip", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(bareReqs)
	wrapped = testkit.Receive(t, accepted, "the channel")
	t.Cleanup(func() { _, _, _ = wrapped.Close(), conn.Close(), server.Conn.Close() })
	return wrapped, bare
}

// sshServer is the server's side of a login.
func sshServer(t *testing.T, conn net.Conn) bridge.Leg {
	server, chans, reqs := testkit.ServeSSH(t, conn)
	return bridge.Leg{Conn: server, Chans: chans, Reqs: reqs}
}

func TestChanConnCarriesASecondSSH(t *testing.T) {
	wrapped, bare := chanConnPair(t)
	if wrapped.RemoteAddr() != net.Addr(chanConnRemote) || wrapped.LocalAddr() != net.Addr(chanConnLocal) {
		t.Errorf("addresses %v, %v", wrapped.RemoteAddr(), wrapped.LocalAddr())
	}
	inner := make(chan bridge.Leg, 1)
	go func() { inner <- sshServer(t, wrapped) }()
	outer, chans, reqs, err := ssh.NewClientConn(bareConn{bare}, "inner", &ssh.ClientConfig{User: "u", HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	go testkit.Drain(chans, reqs)
	server := testkit.Receive(t, inner, "the inner login")
	go ssh.DiscardRequests(server.Reqs)
	go func() {
		for nc := range server.Chans {
			go testkit.CountInput(nc)
		}
	}()
	ch, chReqs, err := outer.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(chReqs)
	_, _ = ch.Write(make([]byte, 5<<20))
	_ = ch.CloseWrite()
	if answer, _ := io.ReadAll(ch); string(answer) != "session got 5242880 bytes" {
		t.Errorf("answer %q", answer)
	}
	_ = outer.Close()
}

// bareConn is the least a client needs.
type bareConn struct{ ssh.Channel }

func (bareConn) LocalAddr() net.Addr              { return chanConnRemote }
func (bareConn) RemoteAddr() net.Addr             { return chanConnLocal }
func (bareConn) SetDeadline(time.Time) error      { return nil }
func (bareConn) SetReadDeadline(time.Time) error  { return nil }
func (bareConn) SetWriteDeadline(time.Time) error { return nil }

func TestChanConnHalfCloses(t *testing.T) {
	wrapped, bare := chanConnPair(t)
	payload := bytes.Repeat([]byte("x"), 200_000)
	go func() {
		_, _ = wrapped.Write(payload)
		_ = wrapped.(interface{ CloseWrite() error }).CloseWrite()
	}()
	testkit.Within(t, "our end", func() {
		if got, _ := io.ReadAll(bare); !bytes.Equal(got, payload) {
			t.Errorf("got %d bytes of %d", len(got), len(payload))
		}
	})
	if _, err := wrapped.Write([]byte("late")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("write after CloseWrite: %v", err)
	}
	go func() {
		_, _ = bare.Write(payload)
		_ = bare.CloseWrite()
	}()
	testkit.Within(t, "their end", func() {
		if got, err := io.ReadAll(wrapped); !bytes.Equal(got, payload) || err != nil {
			t.Errorf("got %d bytes of %d, %v", len(got), len(payload), err)
		}
	})
}

func TestChanConnCloseSendsWhatWasWritten(t *testing.T) {
	wrapped, bare := chanConnPair(t)
	_, _ = wrapped.Write([]byte("last words"))
	_ = wrapped.Close()
	testkit.Within(t, "the end", func() {
		if got, _ := io.ReadAll(bare); string(got) != "last words" {
			t.Errorf("got %q", got)
		}
	})
	if err := wrapped.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("second close: %v", err)
	}
}

func TestChanConnDeadlines(t *testing.T) {
	wrapped, bare := chanConnPair(t)
	buf := make([]byte, 16)
	_ = wrapped.SetDeadline(time.Now().Add(-time.Second))
	if _, err := wrapped.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read in the past: %v", err)
	}
	if _, err := wrapped.Write(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("write in the past: %v", err)
	}
	_ = wrapped.SetReadDeadline(time.Now().Add(5 * time.Millisecond))
	testkit.Within(t, "a read that nobody answers", func() {
		if _, err := wrapped.Read(buf); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v", err)
		}
	})
	// A deadline set while a read waits cuts it short.
	_ = wrapped.SetReadDeadline(time.Time{})
	cut := make(chan error, 1)
	go func() {
		_, err := wrapped.Read(buf)
		cut <- err
	}()
	_ = wrapped.SetReadDeadline(time.Now())
	if err := testkit.Receive(t, cut, "the read"); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("read: %v", err)
	}
	// Nothing was lost by it.
	_ = wrapped.SetDeadline(time.Time{})
	_, _ = bare.Write([]byte("still here"))
	testkit.Within(t, "the read after", func() {
		if n, err := io.ReadFull(wrapped, buf[:10]); err != nil || string(buf[:n]) != "still here" {
			t.Errorf("got %q, %v", buf[:n], err)
		}
	})
}

func TestChanConnEndsThoughThePeerDoesNothing(t *testing.T) {
	// The peer opens no window and answers no close, as long as the outer connection lives: a login over it must still end in time.
	wrapped, _ := chanConnPair(t)
	_ = wrapped.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
	testkit.Within(t, "a write that nobody takes", func() {
		if _, err := wrapped.Write(make([]byte, 8<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %v", err)
		}
	})
	waiting := make(chan error, 2)
	_ = wrapped.SetWriteDeadline(time.Time{})
	go func() {
		_, err := wrapped.Write([]byte("more"))
		waiting <- err
	}()
	go func() {
		_, err := wrapped.Read(make([]byte, 1))
		waiting <- err
	}()
	_ = wrapped.Close()
	for range 2 {
		if err := testkit.Receive(t, waiting, "the waiting calls"); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	}
}

func TestChanConnWriteFailsWhenThePeerHasClosed(t *testing.T) {
	wrapped, bare := chanConnPair(t)
	_ = bare.Close()
	testkit.Within(t, "the failure", func() {
		for {
			if _, err := wrapped.Write([]byte("anyone?")); err != nil {
				if !errors.Is(err, io.ErrClosedPipe) {
					t.Errorf("write: %v", err)
				}
				return
			}
		}
	})
}
