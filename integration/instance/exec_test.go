package instance_test

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestExitCodes(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		for _, code := range []int{0, 7, 255} {
			if got := p.run("", "ssh", "target", fmt.Sprintf("exit %d", code)); got.code != code {
				t.Errorf("exit %d arrived as %d, stderr %q", code, got.code, got.stderr)
			}
		}
	})
}

// The ssh program does not say by which signal a command died, so that a library looks at it.
func TestDeathBySignal(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		if got := p.run("", "ssh", "target", "kill -TERM $$"); got.code != 255 {
			t.Errorf("code %d, stderr %q", got.code, got.stderr)
		}
		session := p.dial().open()
		var died *ssh.ExitError
		if err := session.Run("kill -TERM $$"); !errors.As(err, &died) || died.Signal() != "TERM" {
			t.Errorf("got %v", err)
		}
	})
}

// A signal that the client sends reaches the command.
func TestSignalRequest(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		session := p.dial().open()
		out, err := session.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.Start(`trap 'exit 5' TERM; echo up; while :; do sleep 0.05; done`); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(out, make([]byte, 3)); err != nil {
			t.Fatal(err)
		}
		if err := session.Signal(ssh.SIGTERM); err != nil {
			t.Fatal(err)
		}
		var exited *ssh.ExitError
		if err := session.Wait(); !errors.As(err, &exited) || exited.ExitStatus() != 5 {
			t.Errorf("got %v", err)
		}
	})
}

func TestStderrApart(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		got := p.run("", "ssh", "target", "echo out; echo err >&2")
		if got.stdout != "out\n" || got.stderr != "err\n" {
			t.Errorf("stdout %q, stderr %q", got.stdout, got.stderr)
		}
	})
}

func TestEnvironment(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		out := p.ssh("-o", "SetEnv=LC_TEST=abc SECRET=x", "target", `echo "$LC_TEST:${SECRET-unset}:$USER:$PWD:$HOME"; test "$PWD" = "$HOME" && test -n "$SSH_CONNECTION"`)
		if !strings.HasPrefix(out, "abc:unset:ec2-user:") {
			t.Errorf("got %q", out)
		}
	})
}
