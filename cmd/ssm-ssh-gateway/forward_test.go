package main

import (
	"bytes"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestParseForward(t *testing.T) {
	for text, want := range map[string]forwardSpec{
		"8080:localhost:80":          {network: "tcp", address: "127.0.0.1:8080", port: 80},
		"0:127.0.0.1:80":             {network: "tcp", address: "127.0.0.1:0", port: 80},
		"5432:db.internal:5432":      {network: "tcp", address: "127.0.0.1:5432", host: "db.internal", port: 5432},
		"*:5432:db:5432":             {network: "tcp", address: ":5432", host: "db", port: 5432},
		":5432:db:5432":              {network: "tcp", address: ":5432", host: "db", port: 5432},
		"[::1]:5432:[fd00::1]:80":    {network: "tcp", address: "[::1]:5432", host: "fd00::1", port: 80},
		"10.0.0.1:1:127.0.0.2:65535": {network: "tcp", address: "10.0.0.1:1", host: "127.0.0.2", port: 65535},
		"/tmp/a.sock:localhost:80":   {network: "unix", address: "/tmp/a.sock", port: 80},
		"./a.sock:db:80":             {network: "unix", address: "./a.sock", host: "db", port: 80},
	} {
		got, err := parseForward(text)
		if err != nil {
			t.Errorf("%s: %v", text, err)
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(forwardSpec{})); diff != "" {
			t.Errorf("%s: %s", text, diff)
		}
	}
	for text, want := range map[string]string{
		"":                          "write [BIND:]PORT:HOST:HOSTPORT",
		"8080":                      "write [BIND:]PORT:HOST:HOSTPORT",
		"8080:80":                   "write [BIND:]PORT:HOST:HOSTPORT",
		"a:b:c:d:e":                 "write [BIND:]PORT:HOST:HOSTPORT",
		"8080:localhost:0":          `"0" is no port`,
		"8080:localhost:65536":      `"65536" is no port`,
		"http:localhost:80":         `"http" is no port`,
		"8080:/run/docker.sock":     "does not reach unix sockets",
		"[::1:8080:localhost:80":    "a bracket is not closed",
		"8080:[fd00::1]x:80":        "a bracket is not closed",
		"8080:localhost:/run/a.sck": "does not reach unix sockets",
		"0[:8080:localhost:80":      "brackets belong around an IPv6 address",
	} {
		if _, err := parseForward(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}

// serveEcho answers every connection with what it says, until the test ends, and gives the port.
func serveEcho(t *testing.T, host string) string {
	t.Helper()
	_, port, _ := net.SplitHostPort(testkit.ServeTCP(t, host, func(conn net.Conn) { _, _ = io.Copy(conn, conn) }))
	return port
}

func dialLocal(t *testing.T, port string) net.Conn {
	t.Helper()
	conn, err := net.Dial("tcp", "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// roundTrip sends n bytes and wants them back.
func roundTrip(t *testing.T, network, address string, n int) {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	sent, got := make([]byte, n), make([]byte, n)
	_, _ = rand.Read(sent) // never fails
	go func() { _, _ = conn.Write(sent) }()
	if read, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("%s: %d of %d bytes came back: %v", address, read, n, err)
	}
}

// TestForward has connections side by side to a port of the machine and to a host behind it, from a port and from a unix socket.
func TestForward(t *testing.T) {
	l := laptopLab(t)
	near, behind := serveEcho(t, "127.0.0.1"), serveEcho(t, "127.0.0.2")
	socket := filepath.Join(t.TempDir(), "s")
	p := begin(t, nil, "forward", "-L", "0:localhost:"+near, "-L", socket+":127.0.0.2:"+behind, "-L", "0:localhost:"+near, lab.MainInstance)
	addresses := p.stderr.Find(t, `(?s)(127\.0\.0\.1:\d+) leads to localhost.*leads to 127\.0\.0\.2.* (127\.0\.0\.1:\d+) leads to localhost`)
	if info, err := os.Stat(socket); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket: %v, %v", info, err)
	}
	var all sync.WaitGroup
	for range 4 {
		all.Go(func() { roundTrip(t, "tcp", addresses[1], 100<<10) })
		all.Go(func() { roundTrip(t, "tcp", addresses[2], 10) })
		all.Go(func() { roundTrip(t, "unix", socket, 100<<10) })
	}
	all.Wait()
	if open := openSessions(l); open != 2 {
		t.Errorf("%d sessions for two destinations", open)
	}
	p.interrupt()
	if code := p.end(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	if _, err := os.Stat(socket); err == nil {
		t.Error("the socket is left")
	}
	nothingOpen(t, l)
}

// TestForwardAgain ends a session as the service does, and connects again.
func TestForwardAgain(t *testing.T) {
	l := laptopLab(t)
	p := begin(t, nil, "forward", "-L", "0:localhost:"+serveEcho(t, "127.0.0.1"), lab.MainInstance)
	address := p.stderr.Find(t, `(127\.0\.0\.1:\d+) leads`)[1]
	for range 2 {
		roundTrip(t, "tcp", address, 1000)
		for _, session := range l.AWS.Sessions() {
			l.AWS.End(session.ID, "idle for too long")
		}
		// The client learns of it a moment later; connections until then are lost with the session.
		testkit.Eventually(t, "another session", func() bool {
			if conn, err := net.Dial("tcp", address); err == nil {
				_ = conn.SetDeadline(time.Now().Add(patience))
				_, _ = conn.Write([]byte("x"))
				_, _ = conn.Read(make([]byte, 1))
				_ = conn.Close()
			}
			return openSessions(l) > 0
		})
	}
	p.stderr.Find(t, "has ended .*idle for too long")
	p.interrupt()
	if code := p.end(t); code != 0 {
		t.Errorf("exit status %d", code)
	}
	nothingOpen(t, l)
}

// TestForwardHalfClose ends its input before the answer comes.
func TestForwardHalfClose(t *testing.T) {
	l := laptopLab(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	asked := make(chan struct{})
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer func() { _ = conn.Close() }()
		_, _ = io.ReadFull(conn, make([]byte, len("question")))
		<-asked
		_, _ = io.WriteString(conn, "answer")
	}()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	p := begin(t, nil, "forward", "-L", "0:localhost:"+port, lab.MainInstance)
	conn, err := net.Dial("tcp", p.stderr.Find(t, `(127\.0\.0\.1:\d+) leads`)[1])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	_, _ = io.WriteString(conn, "question")
	_ = conn.(*net.TCPConn).CloseWrite()
	close(asked)
	if got, err := io.ReadAll(conn); string(got) != "answer" {
		t.Errorf("after the end of input came %q, %v", got, err)
	}
	p.interrupt()
	p.end(t)
	nothingOpen(t, l)
}

// TestForwardNobody: a port on which nobody listens ends connections, with a word, and not the program.
func TestForwardNobody(t *testing.T) {
	l := laptopLab(t)
	p := begin(t, nil, "forward", "-L", "0:localhost:1", lab.MainInstance)
	conn, err := net.Dial("tcp", p.stderr.Find(t, `(127\.0\.0\.1:\d+) leads`)[1])
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if got, err := io.ReadAll(conn); len(got) > 0 || os.IsTimeout(err) {
		t.Errorf("nobody said %q, %v", got, err)
	}
	p.stderr.Find(t, "nothing answers on localhost:1")
	p.interrupt()
	p.end(t)
	nothingOpen(t, l)
}

func TestForwardRefused(t *testing.T) {
	laptopLab(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = taken.Close() }()
	_, port, _ := net.SplitHostPort(taken.Addr().String())
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{lab.MainInstance}, exitUsage, "-L is missing"},
		{[]string{"-R", "80:localhost:80", lab.MainInstance}, exitUsage, "-R is not possible"},
		{[]string{"-L", "80", lab.MainInstance}, exitUsage, "write [BIND:]PORT"},
		{[]string{"-L", "0:localhost:80"}, exitUsage, "accepts 1 arg"},
		{[]string{"-L", fmt.Sprintf("%s:localhost:80", port), lab.MainInstance}, exitFailure, "cannot listen on 127.0.0.1:" + port},
		{[]string{"-L", "0:localhost:80", "no-such-machine"}, exitSSH, "no machine no-such-machine is known"},
		{[]string{"-L", "0:localhost:80", lab.OfflineInstance}, exitSSH, "not connected"},
	} {
		if got := runHere(t, nil, append([]string{"forward"}, c.args...)...); got.code != c.code || !strings.Contains(got.stderr, c.want) {
			t.Errorf("%s: %s, want %d and %q", strings.Join(c.args, " "), got, c.code, c.want)
		}
	}
}

func openSessions(l *lab.Lab) int {
	open := 0
	for _, session := range l.AWS.Sessions() {
		if !session.Over() {
			open++
		}
	}
	return open
}

// TestMeter reads the line of a terminal.
func TestMeter(t *testing.T) {
	var out bytes.Buffer
	m := &meter{out: &out, live: true}
	closed := m.opened()
	m.opened()
	m.sent(999)
	m.received(1_234_567)
	closed()
	m.show("\n")
	if want := clearLine + "1 connections (2 in all), 999 B up, 1.2 MB down\n"; out.String() != want {
		t.Errorf("%q, want %q", out.String(), want)
	}
}
