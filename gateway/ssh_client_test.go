package gateway

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// sshClient is a directory with what the real client needs: an identity of alice's, the CA line and a configuration.
type sshClient struct {
	dir, program string
}

func newSSHClient(t *testing.T, w *world) sshClient {
	t.Helper()
	program, err := exec.LookPath("ssh")
	if err != nil {
		t.Skip("no OpenSSH client: ", err)
	}
	dir := t.TempDir()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	public, err := ssh.NewPublicKey(private.Public())
	if err != nil {
		t.Fatal(err)
	}
	w.people[0].Keys = append(w.people[0].Keys, string(ssh.MarshalAuthorizedKey(public)))
	w.srv.Reload(w.directory(t), authz.BuiltinPolicy())
	host, port, err := net.SplitHostPort(w.addr)
	if err != nil {
		t.Fatal(err)
	}
	outerKey := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(w.srv.cfg.HostKeys[0].PublicKey())))
	authority := strings.TrimSpace(string(ssh.MarshalAuthorizedKey(w.hostCA.PublicKey())))
	for name, text := range map[string]string{
		"id":          string(pem.EncodeToMemory(block)),
		"known_hosts": fmt.Sprintf("gw %s\n@cert-authority i-*,web-* %s\n", outerKey, authority),
		"config": fmt.Sprintf(`
Host gw
  HostName %s
  Port %s
  HostKeyAlias gw
Host *
  IdentityFile %s/id
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile %s/known_hosts
  GlobalKnownHostsFile none
  StrictHostKeyChecking yes
  BatchMode yes
  LogLevel INFO
`, host, port, dir, dir),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return sshClient{dir, program}
}

// run gives stdout, stderr and the exit code of ssh with these arguments.
func (o sshClient) run(t *testing.T, stdin []byte, args ...string) (stdout []byte, stderr string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, o.program, append([]string{"-F", filepath.Join(o.dir, "config")}, args...)...)
	var out, errs bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &errs
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Fatalf("ssh %s did not end: %s", strings.Join(args, " "), errs.String())
	}
	if err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return out.Bytes(), errs.String(), cmd.ProcessState.ExitCode()
}

func TestRealClient(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := newSSHClient(t, w)
	bulk := make([]byte, 8<<20)
	_, _ = rand.Read(bulk)
	for name, to := range map[string][]string{"jump": {"-J", "gw", "ec2-user@" + worldInstance}, "direct": {"ec2-user@" + worldInstance + "@gw"}, "by name": {"-J", "gw", "ec2-user@web-1"}} {
		t.Run(name, func(t *testing.T) {
			if out, errs, code := client.run(t, nil, append(to, "whoami")...); string(out) != "ec2-user\n" || errs != "" || code != 0 {
				t.Errorf("whoami: %q %q %d", out, errs, code)
			}
			for _, status := range []string{"0", "7", "255"} {
				if _, errs, code := client.run(t, nil, append(to, "exit "+status)...); fmt.Sprint(code) != status {
					t.Errorf("exit %s: %d %q", status, code, errs)
				}
			}
			if out, errs, code := client.run(t, bulk, append(to, "cat")...); sha256.Sum256(out) != sha256.Sum256(bulk) || code != 0 {
				t.Errorf("8 MiB through cat: %d bytes back, code %d, %q", len(out), code, errs)
			}
		})
	}
}

func TestRealClientReadsWhyItIsRefused(t *testing.T) {
	w := newWorld(t, worldOptions{})
	client := newSSHClient(t, w)
	refuse := func(call string, r *authz.Refusal) func() {
		return func() { w.cloud.refuseCall(call, r) }
	}
	for name, test := range map[string]struct {
		prepare func()
		args    []string
		want    string
	}{
		"no such machine":  {nil, []string{"-J", "gw", "ec2-user@i-0000000000000000f", "true"}, "no machine i-0000000000000000f is known; check the name"},
		"not a machine":    {nil, []string{"-J", "gw", "-o", "HostKeyAlias=i-x", "ec2-user@127.0.0.1", "true"}, "127.0.0.1 is not a name of a machine"},
		"direct, unknown":  {nil, []string{"ec2-user@i-0000000000000000f@gw", "true"}, "no machine i-0000000000000000f is known"},
		"stopped":          {refuse("start", &authz.Refusal{Reason: authz.ReasonInstanceState, Subject: "web-1", Detail: "stopped"}), []string{"-J", "gw", "ec2-user@web-1", "true"}, "web-1 is stopped; start it, then try again"},
		"agent offline":    {refuse("start", &authz.Refusal{Reason: authz.ReasonTargetNotConnected, Subject: "web-1"}), []string{"ec2-user@web-1@gw", "true"}, "the SSM agent of web-1 is not connected"},
		"denied by AWS":    {refuse("push", &authz.Refusal{Reason: authz.ReasonAccessDenied, Action: "ec2-instance-connect:SendSSHPublicKey", Role: worldRole}), []string{"-J", "gw", "nobody-yet@web-1", "true"}, "AWS does not allow ec2-instance-connect:SendSSHPublicKey as " + worldRole},
		"a key not known":  {nil, []string{"-i", "UNKNOWN", "gw", "whoami"}, "is not known here; offer another key"},
		"forward unasked":  {nil, []string{"-o", "ExitOnForwardFailure=yes", "-N", "-R", "0:localhost:1", "gw"}, "remote port forwarding failed"},
		"bad command":      {nil, []string{"gw", "reboot"}, "unknown command reboot"},
		"a name in escape": {nil, []string{"-l", "ec2-user", "-J", "gw", "-o", "HostName=i-\x1b[31m", "i-x", "true"}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w.cloud.mu.Lock()
			w.cloud.refuse = map[string]error{}
			w.cloud.mu.Unlock()
			if test.prepare != nil {
				test.prepare()
			}
			args := test.args
			if args[0] == "-i" {
				args = append([]string{"-F", client.stranger(t)}, args[2:]...) // the last -F counts
			}
			_, errs, code := client.run(t, nil, args...)
			if code == 0 || !strings.Contains(errs, test.want) {
				t.Errorf("exit %d, read %q, want %q", code, errs, test.want)
			}
			if strings.ContainsRune(errs, '\x1b') {
				t.Errorf("an escape reached the terminal: %q", errs)
			}
		})
	}
}

// stranger gives a configuration with a key that nobody knows.
func (o sshClient) stranger(t *testing.T) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	key, config := filepath.Join(o.dir, "stranger"), filepath.Join(o.dir, "stranger.config")
	if err := os.WriteFile(key, pem.EncodeToMemory(block), 0o600); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(filepath.Join(o.dir, "config"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, bytes.ReplaceAll(text, []byte(o.dir+"/id\n"), []byte(key+"\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	return config
}
