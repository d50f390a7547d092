package instance_test

import (
	"fmt"
	"strings"
	"testing"
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

func TestDeathBySignal(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		// The client reports a signal only when asked to talk; its own code is then 255.
		got := p.run("", "ssh", "-o", "LogLevel=VERBOSE", "target", "kill -TERM $$")
		if got.code != 255 || !strings.Contains(strings.ToLower(got.stderr), "term") && got.code == 0 {
			t.Errorf("code %d, stderr %q", got.code, got.stderr)
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
