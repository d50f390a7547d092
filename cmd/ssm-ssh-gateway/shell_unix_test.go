//go:build unix

package main

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/creack/pty"
	"golang.org/x/term"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// TestShell types at a terminal, whose state is as before when the shell has ended.
func TestShell(t *testing.T) {
	l := laptopLab(t)
	screen, terminal, err := pty.Open()
	if err != nil {
		t.Fatal(err)
	}
	closeTerminal := sync.OnceFunc(func() { _ = terminal.Close() })
	defer closeTerminal()
	if err := pty.Setsize(screen, &pty.Winsize{Rows: 33, Cols: 101}); err != nil {
		t.Fatal(err)
	}
	before, err := term.GetState(int(terminal.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "ssm-ssh-gateway", "shell", "no-sshd-1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = terminal, terminal, terminal
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	out := readScreen(t, screen)
	t.Cleanup(closeTerminal) // before the screen is waited for
	out.Find(t, prompt)
	if err := pty.Setsize(screen, &pty.Winsize{Rows: 40, Cols: 120}); err != nil {
		t.Fatal(err)
	}
	typeAt(t, out, screen, "40 120")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	after, err := term.GetState(int(terminal.Fd()))
	if err != nil || *after != *before {
		t.Errorf("the terminal is not as it was (%v)", err)
	}
	nothingOpen(t, l)
}

// TestShellWithoutTerminal pipes a script into a shell: the end of the script ends it.
func TestShellWithoutTerminal(t *testing.T) {
	l := laptopLab(t)
	got := runHere(t, strings.NewReader("echo sum $((6*7))\n"), "shell", lab.MainInstance)
	if got.code != 0 || !strings.Contains(got.stdout, "sum 42") || got.stderr != "" {
		t.Errorf("%s", got)
	}
	nothingOpen(t, l)
}

// TestShellEnded has the service end the session.
func TestShellEnded(t *testing.T) {
	l := laptopLab(t)
	in, typed, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _, _ = in.Close(), typed.Close() }()
	p := begin(t, in, "shell", lab.MainInstance)
	p.stdout.Find(t, prompt)
	for _, session := range l.AWS.Sessions() {
		l.AWS.End(session.ID, "idle for too long")
	}
	if code := p.end(t); code != exitSSH {
		t.Errorf("exit status %d", code)
	}
	p.stderr.Find(t, "Session Manager has ended the session: idle for too long")
	nothingOpen(t, l)
}

func TestShellRefused(t *testing.T) {
	laptopLab(t)
	for target, want := range map[string]string{lab.OfflineInstance: "not connected", lab.StoppedInstance: "is stopped", "twin": lab.OtherTwinInstance} {
		if got := runHere(t, nil, "shell", target); got.code != exitSSH || !strings.Contains(got.stderr, want) {
			t.Errorf("%s: %s, want %q", target, got, want)
		}
	}
}
