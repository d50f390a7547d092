package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

func TestExec(t *testing.T) {
	l := laptopLab(t)
	for _, c := range []struct {
		name string
		args []string
		want result
	}{
		{"output and success", []string{lab.MainInstance, "--", "echo", "one   two"}, result{stdout: "one two\n"}},
		{"no line end", []string{lab.MainInstance, "--", "printf done"}, result{stdout: "done"}},
		{"exit status", []string{lab.MainInstance, "--", "echo before; exit 7"}, result{stdout: "before\n", code: 7}},
		{"quotes", []string{"web-1", "--", `echo 'it''s' "a \"quoted\" \$HOME"; exit 3`}, result{stdout: "its a \"quoted\" $HOME\n", code: 3}},
		{"standard error among the output", []string{lab.MainInstance, "echo to stderr >&2"}, result{stdout: "to stderr\n"}},
		{"no such program", []string{lab.MainInstance, "--", "no-such-program 2>/dev/null"}, result{code: 127}},
		{"no input", []string{lab.MainInstance, "--", "cat"}, result{}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := runHere(t, strings.NewReader("unread"), append([]string{"exec"}, c.args...)...); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
		})
	}
	nothingOpen(t, l)
}

func TestExecOnTerminal(t *testing.T) {
	l := laptopLab(t)
	got := runHere(t, nil, "exec", "--terminal", lab.MainInstance, "--", "until stty size | grep '^100 300'; do sleep 0.05; done; test -t 1 && exit 5")
	if got.code != 5 || !strings.Contains(got.stdout, "100 300") || strings.Contains(got.stdout, "ssm-ssh-gateway-") {
		t.Errorf("on a terminal: %s", got)
	}
	nothingOpen(t, l)
}

// TestSilentEnd: a program of a document of one's own that says nothing and ends has ended well.
func TestSilentEnd(t *testing.T) {
	l := laptopLab(t)
	for _, args := range [][]string{
		{"shell", "--document", "AWS-StartInteractiveCommand", "--parameter", "command=true", lab.MainInstance},
		{"exec", "--document", "AWS-StartInteractiveCommand", lab.MainInstance, "--", "true"},
	} {
		if got := runHere(t, nil, args...); got != (result{}) {
			t.Errorf("%s: %s", strings.Join(args, " "), got)
		}
	}
	nothingOpen(t, l)
}

// TestCalledOff: who interrupts before there is a session is not told that something took too long.
func TestCalledOff(t *testing.T) {
	l := laptopLab(t)
	if err := l.AWS.SetFaults(awsemu.Scope{}, awsemu.Faults{AnswerLatency: awsemu.Duration(time.Second)}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := l.AWS.SetFaults(awsemu.Scope{}, awsemu.Faults{}); err != nil {
			t.Error(err)
		}
	}()
	for _, args := range [][]string{
		{"connect", "--no-push", lab.MainInstance}, {"forward", "-L", "0:localhost:22", lab.MainInstance}, {"shell", lab.MainInstance}, {"exec", lab.MainInstance, "--", "true"},
	} {
		ctx, interrupt := context.WithCancel(t.Context())
		started := len(l.AWS.Sessions())
		go func() {
			defer interrupt()
			for len(l.AWS.Sessions()) == started && t.Context().Err() == nil {
				time.Sleep(10 * time.Millisecond)
			}
		}()
		var out, stderr strings.Builder
		if code := run(ctx, args, stdio{strings.NewReader(""), &out}, &stderr); code != exitInterrupted || out.Len()+stderr.Len() > 0 {
			t.Errorf("%s: exit status %d, %q and %q", strings.Join(args, " "), code, out.String(), stderr.String())
		}
	}
	nothingOpen(t, l)
}

func TestExecRefused(t *testing.T) {
	laptopLab(t)
	for _, c := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"exec", lab.MainInstance}, exitUsage, "requires at least 2 arg"},
		{[]string{"exec", lab.MainInstance, "--"}, exitUsage, "no command given"},
		{[]string{"exec", "--parameter", "nonsense", lab.MainInstance, "true"}, exitUsage, `"nonsense" is not NAME=VALUE`},
		{[]string{"exec", lab.StoppedInstance, "true"}, exitSSH, "is stopped"},
		{[]string{"exec", lab.OfflineInstance, "true"}, exitSSH, "not connected"},
		{[]string{"exec", "--document", "No-Such-Document", lab.MainInstance, "true"}, exitSSH, "document"},
		{[]string{"shell", "--document", "AWS-StartSSHSession", lab.MainInstance}, exitSSH, "leads to a port and runs nothing; use connect or forward"},
		{[]string{"shell", "--profile", "nobody", lab.MainInstance}, exitSSH, "no profile nobody"},
		{[]string{"connect", "--key", "no-such-file", "ec2-user@" + lab.MainInstance}, exitSSH, "no-such-file"},
		{[]string{"connect", "--no-push", lab.MainInstance + ":1"}, exitSSH, "nothing answers on port 1 of " + lab.MainInstance},
		{[]string{"connect", "--max-payload", "-1", lab.MainInstance}, exitUsage, "negative"},
		{[]string{"ls", "--region", "mars-1"}, exitFailure, `"mars-1" is not a region`},
	} {
		if got := runHere(t, nil, c.args...); got.code != c.code || !strings.Contains(got.stderr, c.want) {
			t.Errorf("%s: %s, want %d and %q", strings.Join(c.args, " "), got, c.code, c.want)
		}
	}
}
