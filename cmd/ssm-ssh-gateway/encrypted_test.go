package main

import (
	"io"
	"strings"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// dataKeys counts the data keys that KMS has made.
func dataKeys(l *lab.Lab) int {
	n := 0
	for _, call := range l.AWS.Calls() {
		if call.Action == "GenerateDataKey" {
			n++
		}
	}
	return n
}

// TestExecEncrypted has output, standard error and the exit status come through a session that is encrypted with KMS.
func TestExecEncrypted(t *testing.T) {
	l := laptopLab(t)
	asked := dataKeys(l)
	got := runHere(t, nil, "exec", "--document", lab.EncryptedCommand, lab.MainInstance, "--", "sh -c 'echo out; echo err >&2; exit 7'")
	if want := (result{stdout: "out\n", stderr: "err\n", code: 7}); got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if n := dataKeys(l) - asked; n != 1 {
		t.Errorf("KMS was asked for %d keys", n)
	}
	nothingOpen(t, l)
}

// TestShellEncrypted types into a shell, and reads.
func TestShellEncrypted(t *testing.T) {
	l := laptopLab(t)
	got := runHere(t, strings.NewReader("echo sum $((6*7))\n"), "shell", "--document", lab.EncryptedShell, lab.MainInstance)
	if got.code != 0 || !strings.Contains(got.stdout, "sum 42") || got.stderr != "" {
		t.Errorf("%s", got)
	}
	nothingOpen(t, l)
}

// TestEncryptedWithoutPermission: a person whom IAM keeps from the key reads which permission is missing, and for which key.
func TestEncryptedWithoutPermission(t *testing.T) {
	l := laptopLab(t)
	got := runHere(t, nil, "exec", "--document", lab.LockedCommand, lab.MainInstance, "--", "echo never")
	if got.code != exitSSH || got.stdout != "" || !strings.Contains(got.stderr, "AWS does not allow kms:GenerateDataKey") || !strings.Contains(got.stderr, "alias/lab-locked") {
		t.Errorf("%s", got)
	}
	nothingOpen(t, l)
}

// TestPluginEncrypted serves what the AWS command line has started, with the notice that AWS's plugin prints; without the request, which names the target
// that the key is bound to, there can be no key.
func TestPluginEncrypted(t *testing.T) {
	l := laptopLab(t)
	start := func() []string {
		return pluginArgs(t, l, lab.MainInstance, awscloud.Purpose{Document: lab.EncryptedCommand, Parameters: map[string][]string{commandParameter: {"echo found"}}})
	}
	var out, errs strings.Builder
	code := runPlugin(t.Context(), start(), stdio{strings.NewReader(""), &out}, &errs)
	if code != 0 || !strings.Contains(out.String(), "found\n") || !strings.Contains(out.String(), "This session is encrypted using AWS KMS.\n") {
		t.Errorf("exit status %d, printed %q, said %q", code, out.String(), errs.String())
	}
	errs.Reset()
	if code := runPlugin(t.Context(), start()[:3], stdio{strings.NewReader(""), io.Discard}, &errs); code != exitFailure || !strings.Contains(errs.String(), "the target is not known") {
		t.Errorf("exit status %d, said %q", code, errs.String())
	}
	nothingOpen(t, l)
}
