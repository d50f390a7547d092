package referee_test

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
)

func program(t *testing.T, name, howTo string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not here: %s", name, howTo)
	}
	return path
}

// The way that AWS documents for its users: push a key with the AWS command line, then ssh with `aws ssm start-session` as ProxyCommand.
func TestSSHThroughTheAWSCommandLine(t *testing.T) {
	cli, client := program(t, "aws", "run make tools"), program(t, "ssh", "install openssh-client")
	keygen := program(t, "ssh-keygen", "install openssh-client")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	dir := t.TempDir()
	var sshd atomic.Pointer[instance.Instance] // it needs the emulator, whose agent needs its address
	w := newWorld(t, ctx, func(host string, port int) string {
		if at := sshd.Load(); at != nil && host == "localhost" && port == 22 {
			return at.Addr
		}
		return ""
	})
	started, err := instance.Start(instance.Config{
		ID: machine, KeysURL: w.aws.PlainURL() + "/_emulator/keys", OSUsers: []string{"ec2-user"}, Dir: filepath.Join(dir, "machine"), Embedded: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { closed(t, "instance", started.Close()) })
	sshd.Store(started)

	key, knownHosts := filepath.Join(dir, "key"), filepath.Join(dir, "known_hosts")
	w.runs(t, ctx, keygen, "-q", "-t", "ed25519", "-N", "", "-f", key)
	var lines strings.Builder
	for _, hostKey := range started.HostKeys {
		fmt.Fprintln(&lines, knownhosts.Line([]string{machine}, hostKey))
	}
	if err := os.WriteFile(knownHosts, []byte(lines.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	w.runs(t, ctx, cli, "ec2-instance-connect", "send-ssh-public-key", "--instance-id", machine, "--instance-os-user", "ec2-user",
		"--ssh-public-key", "file://"+key+".pub")
	out := w.runs(t, ctx, client, "-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile="+knownHosts, "-o", "ConnectTimeout=60",
		"-o", "ProxyCommand="+cli+" ssm start-session --target %h --document-name AWS-StartSSHSession --parameters portNumber=%p",
		"ec2-user@"+machine, "echo through $((6*7))")
	if !strings.Contains(out, "through 42") {
		t.Errorf("ssh printed %q", out)
	}
}

// What the AWS command line makes of answers it expects and of refusals.
func TestAWSCommandLineReads(t *testing.T) {
	cli := program(t, "aws", "run make tools")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w := newWorld(t, ctx, nil)
	for _, c := range []struct{ args, want string }{
		{"sts get-caller-identity --query Arn --output text", "arn:aws:iam::111122223333:user/referee"},
		{"ec2 describe-instances --filters Name=tag:Name,Values=web-1 --query Reservations[].Instances[].InstanceId --output text", machine},
		{"ssm describe-instance-information --query InstanceInformationList[].PingStatus --output text", "Online"},
		{"ssm get-connection-status --target " + machine + " --query Status --output text", "connected"},
	} {
		if got := strings.TrimSpace(w.runs(t, ctx, cli, strings.Fields(c.args)...)); got != c.want {
			t.Errorf("aws %s: %q, want %q", c.args, got, c.want)
		}
	}
	cmd := exec.CommandContext(ctx, cli, "ssm", "start-session", "--target", "i-0ffffffffffffffff")
	cmd.Env = w.env
	out, err := cmd.CombinedOutput()
	if err == nil || !strings.Contains(string(out), "(TargetNotConnected)") {
		t.Errorf("a session with a machine that is not there: %v\n%s", err, out)
	}
}

// runs a program to its end and gives what it printed. It must succeed.
func (w *world) runs(t *testing.T, ctx context.Context, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = w.env
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", filepath.Base(name), strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}
