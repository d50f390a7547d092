package testkit

import (
	"context"
	"io"
	"net"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestLoginOverAPair(t *testing.T) {
	near, far := TCPPair(t)
	served := make(chan ssh.Conn, 1)
	go func() {
		conn, opens, reqs := ServeSSH(t, far)
		served <- conn
		Drain(opens, reqs)
	}()
	conn, opens, reqs, err := ssh.NewClientConn(near, "test", &ssh.ClientConfig{HostKeyCallback: ssh.InsecureIgnoreHostKey()})
	if err != nil {
		t.Fatal(err)
	}
	if server := Receive(t, served, "the login"); server == nil {
		t.Error("no server")
	}
	if _, _, err := conn.OpenChannel("session", nil); err == nil {
		t.Error("a channel that nobody serves was opened")
	}
	_ = conn.Close()
	Within(t, "the end of the client's streams", func() { Drain(opens, reqs) })
}

func TestServeSSHWithoutAClient(t *testing.T) {
	near, far := TCPPair(t)
	_ = near.Close()
	if conn, _, _ := ServeSSH(t, far); conn != nil {
		t.Error("a login without a client")
	}
}

func TestBufferAndEventually(t *testing.T) {
	var b Buffer
	go func() { _, _ = io.WriteString(&b, "text") }()
	Eventually(t, "the text", func() bool { return b.String() == "text" })
}

func TestFreeAddress(t *testing.T) {
	first, second := FreeAddress(t), FreeAddress(t)
	listener, err := net.Listen("tcp", first)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	if second == first {
		t.Errorf("%s twice", first)
	}
	if conn, err := net.Dial("tcp", second); err == nil {
		_ = conn.Close()
		t.Errorf("somebody listens on %s", second)
	}
}

func TestTranscriptOfAServer(t *testing.T) {
	address := ServeTCP(t, "127.0.0.1", func(conn net.Conn) { _, _ = io.WriteString(conn, "port 42 is open\n") })
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	printed, ended := NewTranscript(), make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(printed, conn)
	}()
	if groups := printed.Find(t, `port (\d+)`); groups[1] != "42" {
		t.Errorf("found %q", groups)
	}
	Receive(t, ended, "the server's end of the connection")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := printed.Until(ctx, func(text string) bool { return text != printed.String() }); err == nil {
		t.Error("waited for what is never printed, and found it")
	}
}
