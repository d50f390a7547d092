package e2e

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

const target = "ec2-user@i-0123456789abcdef0"

// TestExec is exit codes, death by signal, stdout and stderr apart.
func TestExec(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		for code := range map[int]bool{0: true, 7: true, 255: true} {
			got := w.ssh(t, nil, target, fmt.Sprintf("echo out; echo err >&2; exit %d", code))
			if got.code != code || got.stdout != "out\n" || !strings.HasSuffix(got.stderr, "err\n") {
				t.Errorf("exit %d came back as %s", code, got)
			}
		}
		if got := w.ssh(t, nil, target, "id -un; echo $SSH_CONNECTION | wc -w"); !strings.Contains(got.stdout, "4") {
			t.Errorf("the machine's sshd did not set up a session: %s", got)
		}
	})
}

// TestSignalDeath compares what ssh makes of a remote death by signal with what it does on a plain connection: 255, and no output.
func TestSignalDeath(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		got := w.ssh(t, nil, target, "kill -KILL $$")
		if got.code != exitSignalled {
			t.Errorf("death by KILL came back as %s", got)
		}
	})
}

// exitSignalled is what OpenSSH's client exits with when the remote side reports exit-signal.
const exitSignalled = 255

// TestShellWithPTY types into a shell, resizes the window, and leaves with an exit code.
func TestShellWithPTY(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		cmd := w.command("ssh", "-tt", target)
		terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 90})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = terminal.Close() }()
		screen := newScreen(terminal)
		typeText(t, terminal, "PS1=ready'> '; stty size\n")
		screen.expect(t, "30 90")
		if err := pty.Setsize(terminal, &pty.Winsize{Rows: 41, Cols: 101}); err != nil {
			t.Fatal(err)
		}
		screen.expectAfter(t, terminal, "stty size\n", "41 101")
		typeText(t, terminal, "exit 9\n")
		if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
			t.Errorf("the shell's exit code came back as %d (%v)", cmd.ProcessState.ExitCode(), err)
		}
	})
}

// TestStdinAndBack sends 64 MiB through the remote cat.
func TestStdinAndBack(t *testing.T) {
	eachFastInstance(t, func(t *testing.T, w *world) {
		const size = 64 << 20
		up, down := sha256.New(), sha256.New()
		cmd := w.command("ssh", target, "cat")
		cmd.Stdin = io.TeeReader(io.LimitReader(rand.Reader, size), up)
		var stderr bytes.Buffer
		cmd.Stdout, cmd.Stderr = down, &stderr
		if err := cmd.Run(); err != nil {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		if !bytes.Equal(up.Sum(nil), down.Sum(nil)) {
			t.Error("what came back differs from what was sent")
		}
	})
}

// TestFileTransfer copies a file and a tree up and down with every program people use.
func TestFileTransfer(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		local := t.TempDir()
		content := randomBytes(t, 1<<20+17)
		write(t, filepath.Join(local, "up"), content)
		programs := map[string]func(t *testing.T, remote string){
			"scp": func(t *testing.T, remote string) {
				w.run(t, "scp", "-q", filepath.Join(local, "up"), target+":"+remote)
				w.run(t, "scp", "-q", target+":"+remote, filepath.Join(local, "scp"))
			},
			"scp -O": func(t *testing.T, remote string) {
				w.run(t, "scp", "-q", "-O", filepath.Join(local, "up"), target+":"+remote)
				w.run(t, "scp", "-q", "-O", target+":"+remote, filepath.Join(local, "scp -O"))
			},
			"sftp": func(t *testing.T, remote string) {
				batch := filepath.Join(t.TempDir(), "batch")
				write(t, batch, []byte(fmt.Sprintf("put %s %s\nget %s %s\nls -l %s\n", filepath.Join(local, "up"), remote, remote, filepath.Join(local, "sftp"), remote)))
				w.run(t, "sftp", "-b", batch, target)
			},
			"rsync": func(t *testing.T, remote string) {
				if _, err := exec.LookPath("rsync"); err != nil {
					t.Fatal("rsync is not installed; scripts/prepare-test installs it")
				}
				shell := "ssh -F " + w.lab.SSHConfig
				w.run(t, "rsync", "-e", shell, filepath.Join(local, "up"), target+":"+remote)
				w.run(t, "rsync", "-e", shell, target+":"+remote, filepath.Join(local, "rsync"))
			},
		}
		for name, transfer := range programs {
			t.Run(name, func(t *testing.T) {
				transfer(t, "file-"+strings.ReplaceAll(name, " ", ""))
				if got, err := os.ReadFile(filepath.Join(local, name)); err != nil || !bytes.Equal(got, content) {
					t.Errorf("%s: the file that came back is another (%d bytes, %v)", name, len(got), err)
				}
			})
		}
	})
}

// TestForwards is -L, -D and -R, and their unix-socket kin.
func TestForwards(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		echo := listenEcho(t, "tcp", "127.0.0.1:0")
		remoteSocket := filepath.Join(testkit.SocketDir(t), "remote.sock")
		listenEcho(t, "unix", remoteSocket)
		local, socks, reverse := testkit.FreeAddress(t), testkit.FreeAddress(t), testkit.FreeAddress(t)
		localSocket := filepath.Join(testkit.SocketDir(t), "local.sock")
		reverseSocket := filepath.Join(testkit.SocketDir(t), "reverse.sock")
		background(t, w.command("ssh", "-N", "-o", "ExitOnForwardFailure=yes",
			"-L", local+":"+echo, "-L", localSocket+":"+remoteSocket, "-D", socks, "-R", reverse+":"+echo, "-R", reverseSocket+":"+echo, target))
		conversation(t, "-L", func() (net.Conn, error) { return net.Dial("tcp", local) })
		conversation(t, "-L of a unix socket", func() (net.Conn, error) { return net.Dial("unix", localSocket) })
		conversation(t, "-R", func() (net.Conn, error) { return net.Dial("tcp", reverse) })
		conversation(t, "-R of a unix socket", func() (net.Conn, error) { return net.Dial("unix", reverseSocket) })
		conversation(t, "-D", func() (net.Conn, error) {
			return dialSOCKS(socks, echo)
		})
	})
}

// TestReversePortZero lets the machine choose the port and reads the number in what ssh prints.
func TestReversePortZero(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		got := w.ssh(t, nil, "-R", "0:"+listenEcho(t, "tcp", "127.0.0.1:0"), target, "true")
		if got.code != 0 || !strings.Contains(got.stderr, "Allocated port ") {
			t.Errorf("-R 0: %s", got)
		}
	})
}

// TestPlainPort reaches a port of the machine that is not its sshd's, through the outer connection alone.
func TestPlainPort(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		echo := listenEcho(t, "tcp", "127.0.0.1:0")
		_, port, _ := net.SplitHostPort(echo)
		local := testkit.FreeAddress(t)
		background(t, w.command("ssh", "-N", "-o", "ExitOnForwardFailure=yes", "-L", local+":i-0123456789abcdef0:"+port, "gateway"))
		// A Session Manager port session has no half-close (SPEC.md §7.2).
		exchange(t, "-L through the gateway alone", func() (net.Conn, error) { return net.Dial("tcp", local) })
	})
}

// TestAgentForwarding lists the user's agent on the machine.
func TestAgentForwarding(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		agentSocket := startAgent(t, w.lab.UserKey("alice"))
		cmd := w.command("ssh", "-A", target, "ssh-add -l")
		cmd.Env = append(cmd.Environ(), "SSH_AUTH_SOCK="+agentSocket)
		got := runResult(t, cmd, nil)
		if got.code != 0 || !strings.Contains(got.stdout, "ED25519") {
			t.Errorf("ssh-add -l on the machine: %s", got)
		}
		cmd = w.command("ssh", "-a", target, "ssh-add -l")
		cmd.Env = append(cmd.Environ(), "SSH_AUTH_SOCK="+agentSocket)
		if got := runResult(t, cmd, nil); got.code == 0 {
			t.Errorf("without -A the machine still reaches an agent: %s", got)
		}
	})
}

// TestWaysIn reaches the machine by every form of name and login.
func TestWaysIn(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		ways := map[string][]string{
			"jump":                {target},
			"jump, capital":       {"ec2-user@I-0123456789ABCDEF0"},
			"jump, Name tag":      {"ec2-user@web-1"},
			"jump, region":        {"ec2-user@i-0123456789abcdef0.us-east-1"},
			"jump, account":       {"ec2-user@web-1.us-east-1.lab"},
			"jump, alias":         {"ec2-user@www"},
			"direct":              {"ec2-user@i-0123456789abcdef0@gateway"},
			"direct, plus":        {"ec2-user+i-0123456789abcdef0@gateway"},
			"direct, percent":     {"-l", "ec2-user%i-0123456789abcdef0", "gateway"},
			"direct, Name tag":    {"ec2-user@web-1@gateway"},
			"jump, explicit -J":   {"-J", "gateway", "-o", "ProxyCommand=none", target},
			"stdio, ProxyCommand": {"-o", "ProxyJump=none", "-o", w.proxyCommand("alice"), "-o", "UserKnownHostsFile=" + w.lab.InstanceKnownHosts, target},
		}
		for name, args := range ways {
			t.Run(name, func(t *testing.T) {
				if got := w.ssh(t, nil, append(args, "echo reached")...); got.code != 0 || got.stdout != "reached\n" {
					t.Errorf("ssh %s: %s", strings.Join(args, " "), got)
				}
			})
		}
	})
}

// TestTenAtOnce opens ten connections at the same time.
func TestTenAtOnce(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		var group sync.WaitGroup
		for i := range 10 {
			group.Go(func() {
				want := fmt.Sprintf("%d\n", i)
				if got := w.ssh(t, nil, target, fmt.Sprintf("echo %d; exit %d", i, i)); got.code != i || got.stdout != want {
					t.Errorf("connection %d: %s", i, got)
				}
			})
		}
		group.Wait()
	})
}

// TestMultiplexing runs sessions one after another over one ControlMaster connection.
func TestMultiplexing(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		socket := filepath.Join(testkit.SocketDir(t), "master")
		background(t, w.command("ssh", "-M", "-N", "-S", socket, target))
		waitFor(t, socket)
		for i := range 20 {
			if got := w.ssh(t, nil, "-S", socket, target, fmt.Sprintf("exit %d", i)); got.code != i {
				t.Errorf("session %d: %s", i, got)
			}
		}
	})
}

// TestCertificateUser logs in with a certificate that names bob.
func TestCertificateUser(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		if got := w.as("bob").ssh(t, nil, target, "echo reached"); got.stdout != "reached\n" {
			t.Errorf("bob's certificate: %s", got)
		}
	})
}

// TestSecurityKeyUser logs in with a FIDO key, by OpenSSH's dummy security key.
func TestSecurityKeyUser(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		if got := w.as("carol").ssh(t, nil, target, "echo reached"); got.stdout != "reached\n" {
			t.Errorf("carol's security key: %s", got)
		}
	})
}

// screen reads what a terminal shows.
type screen struct {
	mu   sync.Mutex
	text strings.Builder
	more chan struct{}
}

func newScreen(r io.Reader) *screen {
	s := &screen{more: make(chan struct{}, 1)}
	go func() {
		buffer := make([]byte, 4096)
		for {
			n, err := r.Read(buffer)
			s.mu.Lock()
			s.text.Write(buffer[:n])
			s.mu.Unlock()
			select {
			case s.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return s
}

func (s *screen) contents() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

func (s *screen) expect(t *testing.T, want string) {
	t.Helper()
	deadline := time.After(patience)
	for !strings.Contains(s.contents(), want) {
		select {
		case <-s.more:
		case <-deadline:
			t.Fatalf("the terminal never showed %q; it shows %q", want, s.contents())
		}
	}
}

// expectAfter types text again and again until the screen shows want: a resize travels as a request of its own and may come second.
func (s *screen) expectAfter(t *testing.T, w io.Writer, text, want string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for !strings.Contains(s.contents(), want) {
		typeText(t, w, text)
		select {
		case <-time.After(300 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("the terminal never showed %q; it shows %q", want, s.contents())
		}
	}
}

func typeText(t *testing.T, w io.Writer, text string) {
	t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
}
