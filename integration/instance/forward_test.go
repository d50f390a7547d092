package instance_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// echoUpper answers what it has read up to the end of its input, in upper case: it says nothing to a client whose half-close is lost.
func echoUpper(t *testing.T, network, addr string) net.Listener {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(commandLimit))
			text, _ := io.ReadAll(conn)
			_, _ = io.WriteString(conn, strings.ToUpper(string(text)))
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l
}

// background runs ssh until the test ends, and returns when it has printed the line "ready": its forwards are up by then.
func (c *client) background(args ...string) {
	c.t.Helper()
	cmd := c.command("ssh", append(append([]string{"-o", "ExitOnForwardFailure=yes"}, args...), "target", "echo ready; cat")...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd.Stderr = c.t.Output()
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() {
		_ = stdin.Close()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "ready\n" {
		c.t.Fatalf("ssh %q printed %q, %v", args, line, err)
	}
}

// talk sends text, ends its input and returns the answer.
func talk(t *testing.T, network, addr, text string) string {
	t.Helper()
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	return talkOver(t, conn, text)
}

func talkOver(t *testing.T, conn net.Conn, text string) string {
	t.Helper()
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(commandLimit))
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	if half, ok := conn.(interface{ CloseWrite() error }); ok {
		if err := half.CloseWrite(); err != nil {
			t.Fatal(err)
		}
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(answer)
}

func TestLocalForwardKeepsHalfClose(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		target := echoUpper(t, "tcp", "127.0.0.1:0").Addr().String()
		local := testkit.FreeAddress(t)
		p.background("-L", local+":"+target)
		if got := talk(t, "tcp", local, "up and back"); got != "UP AND BACK" {
			t.Errorf("got %q", got)
		}
	})
}

func TestLocalForwardToNobody(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		got := p.run("", "ssh", "-o", "LogLevel=INFO", "-W", testkit.FreeAddress(t), "target")
		if got.code == 0 || !strings.Contains(strings.ToLower(got.stderr), "refused") {
			t.Errorf("code %d, stderr %q", got.code, got.stderr)
		}
	})
}

func TestRemoteForward(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		target := echoUpper(t, "tcp", "127.0.0.1:0").Addr().String()
		remote := testkit.FreeAddress(t)
		p.background("-R", remote+":"+target)
		if got := talk(t, "tcp", remote, "from afar"); got != "FROM AFAR" {
			t.Errorf("got %q", got)
		}
	})
}

func TestRemoteForwardPortZeroPerConnection(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		target := echoUpper(t, "tcp", "127.0.0.1:0").Addr().String()
		ports := map[string]bool{}
		for range 2 { // two connections that ask for the same thing get two ports
			out := p.run("", "ssh", "-o", "LogLevel=INFO", "-R", "0:"+target, "target", "true")
			_, port, found := strings.Cut(out.stderr, "Allocated port ")
			port, _, _ = strings.Cut(port, " ")
			if !found || port == "0" || ports[port] {
				t.Errorf("stderr %q", out.stderr)
			}
		}
	})
}

func TestDynamicForward(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		host, port, err := net.SplitHostPort(echoUpper(t, "tcp", "127.0.0.1:0").Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		local := testkit.FreeAddress(t)
		p.background("-D", local)
		conn, err := net.Dial("tcp", local)
		if err != nil {
			t.Fatal(err)
		}
		var number int
		if _, err := fmt.Sscan(port, &number); err != nil {
			t.Fatal(err)
		}
		hello := append([]byte{5, 1, 0, 5, 1, 0, 3, byte(len(host))}, host...) // RFC 1928: no authentication, CONNECT, by name
		if _, err := conn.Write(append(hello, byte(number>>8), byte(number))); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, 2+10)
		if _, err := io.ReadFull(conn, answer); err != nil || answer[1] != 0 || answer[3] != 0 {
			t.Fatalf("SOCKS answer %v, %v", answer, err)
		}
		if got := talkOver(t, conn, "socks"); got != "SOCKS" {
			t.Errorf("got %q", got)
		}
	})
}

func TestUnixForwards(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		dir := testkit.SocketDir(t)
		target := filepath.Join(dir, "target")
		echoUpper(t, "unix", target)
		if err := os.Chmod(target, 0o777); err != nil {
			t.Fatal(err)
		}
		local, remote := filepath.Join(dir, "local"), filepath.Join(dir, "remote")
		p.background("-L", local+":"+target, "-R", remote+":"+target)
		for _, path := range []string{local, remote} {
			if got := talk(t, "unix", path, "sockets"); got != "SOCKETS" {
				t.Errorf("%s: got %q", path, got)
			}
		}
	})
}

func TestAgentForwarding(t *testing.T) {
	if _, err := exec.LookPath("ssh-add"); err != nil {
		t.Fatal("no ssh-add beside ssh")
	}
	eachKind(t, func(t *testing.T, p place) {
		private, public := newKey(t)
		key, err := ssh.ParseRawPrivateKey([]byte(private))
		if err != nil {
			t.Fatal(err)
		}
		keyring := agent.NewKeyring()
		if err := keyring.Add(agent.AddedKey{PrivateKey: key, Comment: "at home"}); err != nil {
			t.Fatal(err)
		}
		path := serveAgent(t, keyring)
		// IdentitiesOnly and the key file still decide who logs in; the agent is only lent out.
		got := p.ssh("-o", "IdentityAgent="+path, "-A", "target", "ssh-add -L")
		if !strings.Contains(got, strings.Fields(public)[1]) {
			t.Errorf("the agent shows %q", got)
		}
		if got := p.run("", "ssh", "-a", "target", "ssh-add -L"); got.code == 0 {
			t.Errorf("an agent that was not lent shows %q", got.stdout)
		}
	})
}

func serveAgent(t *testing.T, keyring agent.Agent) string {
	t.Helper()
	path := filepath.Join(testkit.SocketDir(t), "agent")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
			_ = agent.ServeAgent(keyring, conn)
			stop()
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		cancel()
		_ = l.Close()
		<-done
	})
	return path
}

// The embedded machine has no xauth and no display: the client says that it got none, and the command runs.
func TestEmbeddedRefusesX11(t *testing.T) {
	p := startPlace(t, instance.Embedded)
	t.Setenv("DISPLAY", ":0")
	got := p.run("", "ssh", "-Y", "target", "echo \"[$DISPLAY]\"; exit 7")
	if got.stdout != "[]\n" || got.code != 7 || !strings.Contains(got.stderr, "X11 forwarding request failed") {
		t.Errorf("exit %d, printed %q, said %q", got.code, got.stdout, got.stderr)
	}
}
