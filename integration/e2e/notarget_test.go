package e2e

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// TestNoTarget is `ssh gateway` with the real ssh and nothing behind it: data on stdout, the rest on stderr, exact statuses.
func TestNoTarget(t *testing.T) {
	w := worldOf(t, "embedded")
	plain := w.ssh(t, nil, "-T", "gateway")
	if plain.code != 0 || !strings.Contains(plain.stdout, lab.MainInstance) || strings.Contains(plain.stdout, lab.ForbiddenInstance) {
		t.Errorf("ssh -T gateway: %s", plain)
	}
	listed := w.ssh(t, nil, "gateway", "ls", "--json", "web-1")
	var machines []struct{ ID, Name string }
	if err := json.Unmarshal([]byte(listed.stdout), &machines); err != nil || listed.code != 0 || len(machines) != 1 || machines[0].ID != lab.MainInstance {
		t.Errorf("ls --json web-1: %v, %s", err, listed)
	}
	for command, want := range map[string]result{
		"reboot":     {stderr: "unknown command reboot", code: 127},
		"ls --bogus": {stderr: "unknown option --bogus", code: 2},
		"sessions":   {code: 0},
	} {
		if got := w.ssh(t, nil, "gateway", command); got.code != want.code || !strings.Contains(got.stderr, want.stderr) {
			t.Errorf("%s: %s", command, got)
		}
	}
}

// TestChoosingAtATerminal chooses a machine in the list with the real ssh on a real terminal, and is on it in the same one.
func TestChoosingAtATerminal(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		cmd := w.command("ssh", "gateway")
		terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 30, Cols: 101})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = terminal.Close() }()
		timer := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
		defer timer.Stop()
		var screen bytes.Buffer
		sees := func(want string) {
			t.Helper()
			piece := make([]byte, 4096)
			for !strings.Contains(screen.String(), want) {
				n, err := terminal.Read(piece)
				screen.Write(piece[:n])
				if err != nil {
					t.Fatalf("never saw %q: %v, on\n%s", want, err, screen.String())
				}
			}
			screen.Next(bytes.Index(screen.Bytes(), []byte(want)) + len(want)) // what came behind it is for the next
		}
		types := func(line string) {
			t.Helper()
			if _, err := terminal.WriteString(line + "\r"); err != nil {
				t.Fatal(err)
			}
		}
		sees("machine: ")
		types("web-1")
		sees("user on web-1 [ec2-user]: ")
		types("")
		types("stty size; echo i-am-$(id -un); exit 9")
		sees("30 101")
		sees("i-am-")
		go func() { // until the terminal has hung up, which lets ssh write its last words
			for piece := make([]byte, 4096); ; {
				if _, err := terminal.Read(piece); err != nil {
					return
				}
			}
		}()
		if _ = cmd.Wait(); cmd.ProcessState.ExitCode() != 9 {
			t.Errorf("exit status %d", cmd.ProcessState.ExitCode())
		}
	})
}
