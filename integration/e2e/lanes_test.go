package e2e

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// master holds one connection to the machine that others share, and gives the options with which they do: and only so, for ssh would rather connect anew
// than tell that a session was refused.
func (w *world) master(t *testing.T, args ...string) []string {
	t.Helper()
	socket := filepath.Join(testkit.SocketDir(t), "master")
	cmd := w.command("ssh", append(append([]string{"-M", "-N", "-S", socket}, args...), target)...)
	cmd.Env = append(cmd.Environ(), "SSH_AUTH_SOCK="+startAgent(t, w.lab.UserKey("alice")))
	background(t, cmd)
	waitFor(t, socket)
	return []string{"-o", "ControlPath=" + socket, "-o", "ProxyJump=none", "-o", "ProxyCommand=false"}
}

// TestTypingBesideATransfer types into a shell while files are copied over the same connection, both ways. Shell and copies are on different lanes, which
// the machine tells by where its sshd sees them come from.
func TestTypingBesideATransfer(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		shared := w.master(t)
		cmd := w.command("ssh", append(shared, "-tt", target)...)
		terminal, err := pty.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = terminal.Close() }()
		screen := newScreen(terminal)
		typeText(t, terminal, "PS1=ready'> '; echo from=$SSH_CONNECTION=\n")
		screen.expect(t, "from=127.0.0.1") // the echo of what was typed has a dollar there
		command := w.ssh(t, nil, append(shared, target, "echo from=$SSH_CONNECTION=")...)
		if !strings.HasPrefix(command.stdout, "from=") || strings.Contains(screen.contents(), strings.TrimSpace(command.stdout)) {
			t.Errorf("a command and the shell share a lane: %s and %q", command, screen.contents())
		}

		local, content := t.TempDir(), randomBytes(t, 3<<20)
		write(t, filepath.Join(local, "up"), content)
		copied := make(chan result, 1)
		go func() {
			up := runResult(t, w.command("scp", append(shared, "-q", filepath.Join(local, "up"), target+":beside")...), nil)
			if up.code == 0 {
				up = runResult(t, w.command("scp", append(shared, "-q", target+":beside", filepath.Join(local, "down"))...), nil)
			}
			copied <- up
		}()
		for keys := 0; ; keys++ {
			typeText(t, terminal, fmt.Sprintf("echo key-$((%d+1))\n", keys))
			screen.expect(t, fmt.Sprintf("key-%d", keys+1))
			select {
			case got := <-copied:
				if got.code != 0 {
					t.Errorf("the copy: %s", got)
				}
			default:
				continue
			}
			break
		}
		if got, err := os.ReadFile(filepath.Join(local, "down")); err != nil || !bytes.Equal(got, content) {
			t.Errorf("the file that came back is another (%d bytes, %v)", len(got), err)
		}
		typeText(t, terminal, "exit 9\n")
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
			t.Errorf("the shell's exit code came back as %d", cmd.ProcessState.ExitCode())
		}
	})
}

// TestADownloadBesideAShell: nobody can tell a forward or a command that will bring much from one that will not, so neither begins where somebody types.
// AWS sees two sessions where there was one.
func TestADownloadBesideAShell(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		port := testkit.FreeAddress(t)
		shared := w.master(t, "-L", port+":"+listenEndless(t))
		terminal, err := pty.Start(w.command("ssh", append(shared, "-tt", target)...))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = terminal.Close() }()
		screen := newScreen(terminal)
		typeText(t, terminal, "PS1=ready'> '; echo there-$((1+1))\n")
		screen.expect(t, "there-2")
		before := w.sessionsStarted()
		flow, err := net.Dial("tcp", port)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = flow.Close() }()
		if _, err := io.CopyN(io.Discard, flow, 64<<10); err != nil {
			t.Fatal(err)
		}
		if got := w.sessionsStarted() - before; got != 1 {
			t.Errorf("%d sessions were started for the forward", got)
		}
		command := w.command("ssh", append(shared, target, "cat /dev/zero")...)
		output, err := command.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		background(t, command)
		if _, err := io.CopyN(io.Discard, output, 64<<10); err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = io.Copy(io.Discard, flow) }()
		go func() { _, _ = io.Copy(io.Discard, output) }()
		for key := range 10 {
			typeText(t, terminal, fmt.Sprintf("echo key-$((%d+1))\n", key))
			screen.expect(t, fmt.Sprintf("key-%d", key+1))
		}
	})
}

// TestACommandThatTalksIsLeftAlone: a program that is asked and answers, as an editor's server is, has nobody else on its lane once that has shown.
func TestACommandThatTalksIsLeftAlone(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		shared := w.master(t)
		talking := w.command("ssh", append(shared, target, "echo $SSH_CONNECTION; cat")...)
		in, err := talking.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		out, err := talking.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		background(t, talking)
		lines := bufio.NewScanner(out)
		if !lines.Scan() {
			t.Fatal("the program did not start")
		}
		lane := lines.Text()
		w.eventually(t, "a command beside it goes elsewhere", func() bool {
			_, _ = io.WriteString(in, "question\n")
			if !lines.Scan() || lines.Text() != "question" {
				t.Fatalf("the program said %q (%v)", lines.Text(), lines.Err())
			}
			other := w.ssh(t, nil, append(shared, target, "echo $SSH_CONNECTION")...)
			return other.code == 0 && strings.TrimSpace(other.stdout) != lane
		})
	})
}

// sessionsStarted counts the calls of StartSession so far.
func (w *world) sessionsStarted() int {
	started := 0
	for _, call := range w.lab.AWS.Calls() {
		if call.Action == "StartSession" {
			started++
		}
	}
	return started
}

// listenEndless is a service that sends without end.
func listenEndless(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	serving.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				piece := make([]byte, 32<<10)
				for {
					if _, err := conn.Write(piece); err != nil {
						return
					}
				}
			})
		}
	})
	return listener.Addr().String()
}

// TestMoreSessionsThanOneConnectionTakes holds 14 sessions over one connection. An sshd takes ten on one (MaxSessions), so they are on two.
func TestMoreSessionsThanOneConnectionTakes(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		shared := w.master(t)
		for i := range 14 {
			cmd := w.command("ssh", append(shared, target, "echo started; read line; exit 7")...)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			var stderr logBuffer
			cmd.Stderr = &stderr
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				_, _ = io.WriteString(stdin, "go\n")
				if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 7 {
					t.Errorf("session %d: exit status %d, %s", i, cmd.ProcessState.ExitCode(), &stderr)
				}
			})
			line := make([]byte, len("started\n"))
			if _, err := io.ReadFull(stdout, line); err != nil || string(line) != "started\n" {
				t.Fatalf("session %d did not start: %v, %s", i, err, &stderr)
			}
		}
	})
}

// TestForwardsAndAgentBesideATransfer uses what belongs to one lane while others come and go.
func TestForwardsAndAgentBesideATransfer(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		reverse, echo := testkit.FreeAddress(t), listenEcho(t, "tcp", "127.0.0.1:0")
		shared := w.master(t, "-A", "-R", reverse+":"+echo)
		local := t.TempDir()
		write(t, filepath.Join(local, "up"), randomBytes(t, 2<<20))
		copied := make(chan result, 2)
		for i := range cap(copied) {
			go func() {
				copied <- runResult(t, w.command("scp", append(shared, "-q", filepath.Join(local, "up"), fmt.Sprintf("%s:beside-%d", target, i))...), nil)
			}()
		}
		conversation(t, "-R", func() (net.Conn, error) { return net.Dial("tcp", reverse) })
		if got := w.ssh(t, nil, append(shared, "-A", target, "ssh-add -l")...); !strings.Contains(got.stdout, "ED25519") {
			t.Errorf("ssh-add -l on the machine: %s", got)
		}
		for range cap(copied) {
			if got := <-copied; got.code != 0 {
				t.Errorf("a copy: %s", got)
			}
		}
		conversation(t, "-R afterwards", func() (net.Conn, error) { return net.Dial("tcp", reverse) })
	})
}
