package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// TestHybridNode reaches a node that Instance Connect does not know by a certificate of the gateway's user CA, which the node's sshd trusts.
func TestHybridNode(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		for _, destination := range []string{"ec2-user@" + lab.HybridNode, "ec2-user@" + lab.HybridNode + "@gateway", "ec2-user@rack-1"} {
			if got := w.ssh(t, nil, destination, "echo reached; exit 3"); got.stdout != "reached\n" || got.code != 3 {
				t.Errorf("%s: %s", destination, got)
			}
		}
		from, to := filepath.Join(t.TempDir(), "from"), filepath.Join(testkit.SocketDir(t), "to")
		content := randomBytes(t, 300<<10)
		write(t, from, content)
		w.run(t, "scp", from, "ec2-user@"+lab.HybridNode+":"+to)
		if got, err := os.ReadFile(to); err != nil || string(got) != string(content) {
			t.Errorf("%d of %d bytes came over: %v", len(got), len(content), err)
		}
		opened := w.audited(t, func(e map[string]any) bool {
			return e["event"] == "upstream.opened" && strings.Contains(text(e["instance"]), lab.HybridNode)
		})
		if opened["login_way"] != "certificate" || opened["issued_serial"] == nil || opened["pushed_key"] != nil || opened["person"] != "alice" {
			t.Errorf("audited as %v", opened)
		}
	})
}

// TestForwardedAgent logs in where neither Instance Connect nor the user CA leads in, if the person forwards an agent, and not without.
func TestForwardedAgent(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		socket := startAgent(t, w.lab.UserKey("alice"))
		destination := "ec2-user@" + lab.NoConnectInstance
		forwarding := w.command("ssh", "-A", destination, "echo reached; ssh-add -l")
		forwarding.Env = append(forwarding.Env, "SSH_AUTH_SOCK="+socket)
		if got := runResult(t, forwarding, nil); !strings.HasPrefix(got.stdout, "reached\n256 SHA256:") || got.code != 0 || strings.Contains(got.stderr, "break-in") {
			t.Errorf("with an agent: %s", got)
		}
		keeping := w.command("ssh", destination, "echo reached")
		keeping.Env = append(keeping.Env, "SSH_AUTH_SOCK="+socket)
		got := runResult(t, keeping, nil)
		w.checkWords(t, got, []string{"no agent was forwarded: ssh -A", "a certificate of the gateway's user CA"})
		if strings.Contains(got.stderr, "agent forwarding") {
			t.Errorf("the agent was asked for all the same: %s", got)
		}
	})
}

// TestWithoutSSHD gets a shell and commands from an instance on which nothing listens on port 22.
func TestWithoutSSHD(t *testing.T) {
	w := worldOf(t, "embedded")
	const announced = "no sshd on " + lab.NoSSHDInstance + ": "
	for _, destination := range []string{"ssm-user@" + lab.NoSSHDInstance, "ssm-user@" + lab.NoSSHDInstance + "@gateway"} {
		got := w.ssh(t, nil, destination, `echo "it's here"; exit 7`)
		if got.stdout != "it's here\n" || got.code != 7 || !strings.Contains(got.stderr, announced+"the command runs through Session Manager") {
			t.Errorf("%s: %s", destination, got)
		}
	}
	destination := "ssm-user@" + lab.NoSSHDInstance
	if got := w.ssh(t, nil, "-tt", destination, "stty size; exit 5"); !strings.HasSuffix(got.stdout, "\r\n") || got.code != 5 {
		t.Errorf("on a terminal: %s", got)
	}
	shell := w.ssh(t, strings.NewReader("echo \"sum $((40+2))\"\nexit\n"), "-tt", destination)
	if !strings.Contains(shell.stdout, "sum 42") || shell.code != 0 || !strings.Contains(shell.stderr, announced+"this is a Session Manager shell") {
		t.Errorf("a shell: %s", shell)
	}
	w.eventually(t, "no Session Manager session is left", func() bool {
		return !slices.ContainsFunc(w.lab.AWS.Sessions(), func(s awsemu.SessionInfo) bool { return s.Target == lab.NoSSHDInstance && !s.Over() })
	})
}

// TestWhatNeedsSSHD reads what people read who want files or forwards from such an instance.
func TestWhatNeedsSSHD(t *testing.T) {
	w := worldOf(t, "embedded")
	destination := "ssm-user@" + lab.NoSSHDInstance
	local := filepath.Join(t.TempDir(), "local")
	write(t, local, []byte("x"))
	for _, program := range []struct {
		name string
		args []string
	}{
		{"scp", []string{local, destination + ":/tmp/never"}},
		{"sftp", []string{"-b", os.DevNull, destination}},
	} {
		got := runResult(t, w.command(program.name, program.args...), nil)
		if got.code == 0 || !strings.Contains(got.stderr, "sftp needs sshd, which does not answer on "+lab.NoSSHDInstance) {
			t.Errorf("%s: %s", program.name, got)
		}
	}
	got := w.ssh(t, nil, "-o", "ExitOnForwardFailure=yes", "-W", "localhost:22", destination)
	if got.code == 0 || !strings.Contains(got.stderr, "needs sshd, which does not answer on") {
		t.Errorf("-W: %s", got)
	}
	if got := w.ssh(t, nil, "-o", "ExitOnForwardFailure=yes", "-R", "0:localhost:22", destination, "true"); got.code == 0 {
		t.Errorf("-R: %s", got)
	}
}

// audited gives the first event of the gateway's audit log that matches, now or later.
func (w *world) audited(t *testing.T, matches func(map[string]any) bool) (found map[string]any) {
	t.Helper()
	w.eventually(t, "the audit has it", func() bool {
		lines, err := os.ReadFile(filepath.Join(w.lab.Dir, "audit.jsonl"))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(lines)) {
			event := map[string]any{}
			if json.Unmarshal([]byte(line), &event) == nil && matches(event) {
				found = event
				return true
			}
		}
		return false
	})
	return found
}

// text is a string in an event; empty where there is none.
func text(value any) string {
	s, _ := value.(string)
	return s
}
