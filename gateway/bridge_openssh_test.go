package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// openSSH is the system's ssh in front of a bridge and the system's sshd behind it.
type openSSH struct {
	dir    string
	config string // for ssh -F
	gate   *scriptedGate
	watch  *recorder
}

// newOpenSSH serves bridges on loopback until the test ends. Every upstream connection is an sshd of its own in inetd mode.
func newOpenSSH(t *testing.T) *openSSH {
	t.Helper()
	for _, program := range []string{"ssh", "sftp", "scp", "sshd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("this test drives OpenSSH, and %v", err)
		}
	}
	o := &openSSH{dir: t.TempDir(), gate: &scriptedGate{}, watch: newRecorder()}
	o.config = filepath.Join(o.dir, "ssh_config")
	signer := o.sshdConfig(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.write(t, o.config, fmt.Sprintf(`Host machine
  HostName 127.0.0.1
  Port %d
  User %s
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ExitOnForwardFailure yes
`, listener.Addr().(*net.TCPAddr).Port, o.user(t)))

	ctx, cancel := context.WithCancel(t.Context())
	var bridges sync.WaitGroup
	bridges.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			bridges.Go(func() {
				cfg := bridgeConfig{grants: allGrants, gate: o.gate, watch: o.watch, text: func(err error) string { return "gateway: " + err.Error() }}
				if l := serverLeg(t, conn); l.conn != nil {
					_ = runBridge(ctx, l, func(context.Context) (leg, error) { return o.sshd(t, signer) }, cfg)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		cancel()
		bridges.Wait()
	})
	return o
}

func (o *openSSH) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (o *openSSH) user(t *testing.T) string {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return me.Username
}

// sshdConfig writes what sshd needs and gives the key it lets in.
func (o *openSSH) sshdConfig(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd's privilege separation directory
			t.Fatal(err)
		}
	}
	o.write(t, filepath.Join(o.dir, "host_key"), string(pem.EncodeToMemory(block)))
	o.write(t, filepath.Join(o.dir, "authorized_keys"), string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	o.write(t, filepath.Join(o.dir, "sshd_config"), fmt.Sprintf(`HostKey %[1]s/host_key
AuthorizedKeysFile %[1]s/authorized_keys
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
PasswordAuthentication no
AllowAgentForwarding yes
StreamLocalBindUnlink yes
ClientAliveInterval 1
PrintMotd no
PrintLastLog no
Subsystem sftp internal-sftp
`, o.dir))
	return signer
}

// sshd starts one for one connection and logs in.
func (o *openSSH) sshd(t *testing.T, signer ssh.Signer) (leg, error) {
	near, far := tcpPair(t)
	socket, err := far.(*net.TCPConn).File()
	if err != nil {
		return leg{}, err
	}
	_ = far.Close()
	path, err := exec.LookPath("sshd") // sshd insists on an absolute path, to run itself again
	if err != nil {
		return leg{}, err
	}
	cmd := exec.Command(path, "-i", "-f", filepath.Join(o.dir, "sshd_config"))
	cmd.Stdin, cmd.Stdout = socket, socket
	if err := cmd.Start(); err != nil {
		return leg{}, err
	}
	_ = socket.Close()
	t.Cleanup(func() { _ = cmd.Wait() })
	conn, chans, reqs, err := ssh.NewClientConn(near, "machine", &ssh.ClientConfig{
		User: o.user(t), Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return leg{}, err
	}
	return leg{conn, chans, reqs}, nil
}

// command is a program of the OpenSSH family with the test's configuration.
func (o *openSSH) command(t *testing.T, program string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), 2*rigPatience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, program, append([]string{"-F", o.config}, args...)...)
}

// output runs ssh machine … and gives stdout; it fails the test unless the exit code is 0.
func (o *openSSH) output(t *testing.T, args ...string) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := o.command(t, "ssh", args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ssh %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return string(out)
}

// master runs a ControlMaster that is up when this returns, and gives the option that uses it.
func (o *openSSH) master(t *testing.T, args ...string) string {
	t.Helper()
	control := "ControlPath=" + filepath.Join(o.dir, "cm")
	o.output(t, append([]string{"-o", control, "-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-N", "-f"}, append(args, "machine")...)...)
	t.Cleanup(func() { _ = exec.Command("ssh", "-F", o.config, "-o", control, "-O", "exit", "machine").Run() })
	return control
}

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
	cmd := o.command(t, "ssh", "-tt", "machine", "stty size; read line; stty size; exit 6")
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = terminal.Close() }()
	seen := func(what string) {
		t.Helper()
		within(t, what, func() {
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
	_, _ = terminal.WriteString("go\n")
	seen("44 140")
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
	within(t, "the answer", func() {
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
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	proxy := free.Addr().String()
	_ = free.Close()
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
	o.gate.forbid = map[authz.Action]bool{authz.ActionExec: true, authz.ActionShell: true, authz.ActionForwardLocal: true}
	for name, args := range map[string][]string{"exec": {"machine", "id"}, "shell": {"-tt", "machine"}, "forward": {"-W", "db.internal:5432", "machine"}} {
		out, err := o.command(t, "ssh", append([]string{"-o", "LogLevel=INFO"}, args...)...).CombinedOutput()
		if err == nil || !strings.Contains(string(out), "gateway: not_permitted") {
			t.Errorf("%s: %v, %q", name, err, out)
		}
	}
}
