package bridge

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh/agent"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestOpenSSHExitCodes(t *testing.T) {
	o := newOpenSSH(t)
	for script, want := range map[string]int{
		"true": 0, "exit 7": 7, "exit 255": 255,
		"kill -TERM $$":                   255, // ssh says 255 for a death by signal
		"(sleep 0.3; echo late) & exit 3": 3,
		"cat; exit 4":                     4, // input is empty and has ended before the command begins
	} {
		out, err := o.command(t, "ssh", "-n", "machine", script).Output()
		got := 0
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			got = exit.ExitCode()
		}
		if got != want || strings.Contains(script, "late") && string(out) != "late\n" {
			t.Errorf("%s: exit code %d, want %d; output %q", script, got, want, out)
		}
	}
}

// A pipe that breaks on the person's side must end the program: ssh says so with eow@openssh.com, and only to servers whose banner begins with OpenSSH.
// To any other it reads on for ever and throws away.
func TestOpenSSHBrokenPipeEndsTheProgram(t *testing.T) {
	o := newOpenSSH(t)
	cmd := o.command(t, "ssh", "-n", "machine", "exec yes")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
		t.Error(err)
	}
	_ = out.Close()
	testkit.Within(t, "the end of yes", func() { _ = cmd.Wait() })
	if info := testkit.Receive(t, o.watch.closed, "the channel's end"); info.ExitSignal != "PIPE" {
		t.Errorf("yes ended with %q, %v", info.ExitSignal, info.ExitStatus)
	}
}

func TestOpenSSHStreams(t *testing.T) {
	o := newOpenSSH(t)
	payload := make([]byte, 8<<20)
	_, _ = rand.Read(payload)
	for name, option := range map[string]string{"plain": "RekeyLimit=default", "rekey": "RekeyLimit=512K"} {
		cmd := o.command(t, "ssh", "-o", option, "machine", "echo aside >&2; cat; exit 5")
		var out, errs bytes.Buffer
		cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(payload), &out, &errs
		err := cmd.Run()
		var exit *exec.ExitError
		if !errors.As(err, &exit) || exit.ExitCode() != 5 || errs.String() != "aside\n" || sha256.Sum256(out.Bytes()) != sha256.Sum256(payload) {
			t.Errorf("%s: %v, %d bytes of %d, stderr %q", name, err, out.Len(), len(payload), errs.String())
		}
	}
}

func TestOpenSSHTerminal(t *testing.T) {
	o := newOpenSSH(t)
	// The new size and what is typed after it may reach the program in either order, so it waits for the size itself.
	const script = `stty size; until [ "$(stty size)" != "33 101" ]; do sleep 0.05; done; stty size; read line; echo "got $line"; exit 6`
	cmd := o.command(t, "ssh", "-tt", "machine", script)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = terminal.Close() }()
	seen := func(what string) {
		t.Helper()
		testkit.Within(t, what, func() {
			var got []byte
			for one := make([]byte, 1); !bytes.Contains(got, []byte(what)); got = append(got, one...) {
				if _, err := terminal.Read(one); err != nil {
					t.Errorf("waiting for %q: %v after %q", what, err, got)
					return
				}
			}
		})
	}
	seen("33 101")
	if err := pty.Setsize(terminal, &pty.Winsize{Rows: 44, Cols: 140}); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Process.Signal(os.Signal(windowChanged))
	seen("44 140")
	_, _ = terminal.WriteString("over\n")
	seen("got over")
	err = cmd.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 6 {
		t.Errorf("ended with %v", err)
	}
}

func TestOpenSSHCopies(t *testing.T) {
	o := newOpenSSH(t)
	payload := make([]byte, 3<<20+17)
	_, _ = rand.Read(payload)
	source := filepath.Join(o.dir, "source")
	o.write(t, source, string(payload))
	for name, args := range map[string][]string{"sftp": nil, "legacy": {"-O"}} {
		there, back := filepath.Join(o.dir, name+"-there"), filepath.Join(o.dir, name+"-back")
		for _, pair := range [][2]string{{source, "machine:" + there}, {"machine:" + there, back}} {
			if out, err := o.command(t, "scp", append(append([]string{"-q"}, args...), pair[0], pair[1])...).CombinedOutput(); err != nil {
				t.Fatalf("scp %s: %v: %s", name, err, out)
			}
		}
		if got, _ := os.ReadFile(back); !bytes.Equal(got, payload) {
			t.Errorf("%s: %d bytes came back of %d", name, len(got), len(payload))
		}
	}
}

// echoServer answers each connection with what it got, when it has ended.
func echoServer(t *testing.T, network, address string) net.Listener {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				in, _ := io.ReadAll(conn)
				_, _ = conn.Write(append([]byte("echo "), in...))
				_ = conn.Close()
			}()
		}
	}()
	return listener
}

// ask sends a question, half-closes, and checks the answer.
func ask(t *testing.T, network, address string) {
	t.Helper()
	conn, err := net.Dial(network, address)
	if err != nil {
		t.Error(err)
		return
	}
	defer func() { _ = conn.Close() }()
	askOn(t, conn)
}

func askOn(t *testing.T, conn net.Conn) {
	t.Helper()
	question := bytes.Repeat([]byte("q"), 100_000)
	testkit.Within(t, "the answer", func() {
		_, _ = conn.Write(question)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
		answer, err := io.ReadAll(conn)
		if err != nil || !bytes.Equal(answer, append([]byte("echo "), question...)) {
			t.Errorf("%d bytes came back, %v", len(answer), err)
		}
	})
}

func TestOpenSSHForwards(t *testing.T) {
	o := newOpenSSH(t)
	service := echoServer(t, "tcp", "127.0.0.1:0")
	socket := filepath.Join(o.dir, "service.sock")
	echoServer(t, "unix", socket)
	control := o.master(t)
	forward := func(args ...string) string {
		t.Helper()
		return strings.TrimSpace(o.output(t, append([]string{"-o", control, "-O", "forward"}, append(args, "machine")...)...))
	}
	local, localSocket := filepath.Join(o.dir, "l1"), filepath.Join(o.dir, "l2")
	forward("-L", local+":"+service.Addr().String())
	ask(t, "unix", local)
	forward("-L", localSocket+":"+socket)
	ask(t, "unix", localSocket)

	port := forward("-R", "0:"+service.Addr().String())
	if _, err := strconv.Atoi(port); err != nil {
		t.Fatalf("-R 0 printed %q", port)
	}
	ask(t, "tcp", "127.0.0.1:"+port)
	remoteSocket := filepath.Join(o.dir, "r1")
	forward("-R", remoteSocket+":"+socket)
	ask(t, "unix", remoteSocket)

	var many sync.WaitGroup
	for range 40 {
		many.Go(func() { ask(t, "unix", local) })
		many.Go(func() { ask(t, "tcp", "127.0.0.1:"+port) })
	}
	many.Wait()
	o.output(t, "-o", control, "-O", "cancel", "-R", "0:"+service.Addr().String(), "machine")
	if out := o.output(t, "-o", control, "machine", "echo shared"); out != "shared\n" {
		t.Errorf("a session beside the forwards said %q", out)
	}
}

func TestOpenSSHDynamicForward(t *testing.T) {
	o := newOpenSSH(t)
	service := echoServer(t, "tcp", "127.0.0.1:0").Addr().(*net.TCPAddr)
	proxy := testkit.FreeAddress(t)
	o.master(t, "-D", proxy)
	conn, err := net.Dial("tcp", proxy)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	// SOCKS4, the shorter of the two ssh speaks: version, connect, port, address, no user.
	_, _ = conn.Write([]byte{4, 1, byte(service.Port >> 8), byte(service.Port), 127, 0, 0, 1, 0})
	answer := make([]byte, 8)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[1] != 90 {
		t.Fatalf("proxy answered %v, %v", answer, err)
	}
	askOn(t, conn)
}

func TestOpenSSHAgent(t *testing.T) {
	if _, err := exec.LookPath("ssh-add"); err != nil {
		t.Skipf("this test looks at the agent from the machine, and %v", err)
	}
	o := newOpenSSH(t)
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	keyring := agent.NewKeyring()
	if err := keyring.Add(agent.AddedKey{PrivateKey: key, Comment: "the person's key"}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(o.dir, "agent")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { _ = agent.ServeAgent(keyring, conn) }()
		}
	}()
	list := func() string {
		cmd := o.command(t, "ssh", "-A", "machine", "ssh-add -l 2>&1")
		cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK="+path)
		out, _ := cmd.Output()
		return string(out)
	}
	if got := list(); !strings.Contains(got, "the person's key") {
		t.Errorf("ssh-add -l on the machine: %q", got)
	}
	o.gate.mu.Lock()
	o.gate.forbid = map[authz.Action]bool{authz.ActionAgentForward: true}
	o.gate.mu.Unlock()
	if got := list(); strings.Contains(got, "the person's key") {
		t.Errorf("forbidden, and still: %q", got)
	}
}

func TestOpenSSHShowsWhyNot(t *testing.T) {
	o := newOpenSSH(t)
	o.gate.mu.Lock()
	o.gate.forbid = map[authz.Action]bool{authz.ActionExec: true, authz.ActionShell: true, authz.ActionForwardLocal: true}
	o.gate.mu.Unlock()
	for name, args := range map[string][]string{"exec": {"machine", "id"}, "shell": {"-tt", "machine"}, "forward": {"-W", "db.internal:5432", "machine"}} {
		out, err := o.command(t, "ssh", append([]string{"-o", "LogLevel=INFO"}, args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "gateway: not_permitted") {
			t.Errorf("%s: %v, %q", name, err, out)
		}
	}
}
