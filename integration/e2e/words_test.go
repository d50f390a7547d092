package e2e

import (
	"context"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// reference is the id that ties what the person reads to the gateway's log.
var reference = regexp.MustCompile(`\[ref ([0-9a-f]{6})\]`)

// TestWords drives the real ssh into each failure and reads what the person would read: a sentence, a next step, a reference that the log has too.
func TestWords(t *testing.T) {
	w := worldOf(t, "embedded")
	for name, c := range map[string]struct {
		person string
		args   []string
		want   []string
	}{
		"unknown key":         {"mallory", []string{target}, []string{"is not known here", "enrolled"}},
		"expired certificate": {"expired", []string{target}, []string{"not valid now", "fresh one"}},
		"wrong principal":     {"wrong-principal", []string{target}, []string{"principals name nobody", "principal"}},
		"revoked key":         {"revoked", []string{target}, []string{"revoked", "another key"}},
		"unknown target":      {"alice", []string{"ec2-user@i-0ffffffffffffffff"}, []string{"no machine i-0ffffffffffffffff is known", "ls"}},
		"ambiguous name":      {"alice", []string{"ec2-user@twin"}, []string{"several machines", lab.TwinInstance, lab.OtherTwinInstance}},
		"not permitted":       {"alice", []string{"ec2-user@" + lab.ForbiddenInstance}, []string{"may not connect", "this machine is in quarantine"}},
		"denied by IAM":       {"alice", []string{"ec2-user@" + lab.OtherTeamInstance}, []string{"AWS does not allow ssm:StartSession", "role/ssh-gw-user/alice", "IAM permission"}},
		"agent offline":       {"alice", []string{"ec2-user@" + lab.OfflineInstance}, []string{"SSM agent", "not connected", "instance profile"}},
		"stopped":             {"alice", []string{"ec2-user@" + lab.StoppedInstance}, []string{"is stopped", "start it"}},
		"no Instance Connect": {"alice", []string{"ec2-user@" + lab.NoConnectInstance}, []string{"did not let user ec2-user in", "EC2 Instance Connect is installed"}},
		"no such OS user":     {"alice", []string{"nobody-here@i-0123456789abcdef0"}, []string{"did not let user nobody-here in", "user exists"}},
		"OS user not allowed": {"alice", []string{"root@i-0123456789abcdef0"}, []string{"AWS does not allow ec2-instance-connect:SendSSHPublicKey", "IAM permission"}},
		"hybrid node":         {"alice", []string{"ec2-user@" + lab.StrangerNode}, []string{"did not let user ec2-user in", "a certificate of the gateway's user CA", "TrustedUserCAKeys"}},
		"no sshd":             {"alice", []string{"ec2-user@" + lab.NoSSHDInstance}, []string{"nothing answers on", "as ssm-user you get a Session Manager shell", "service there is running"}},
		"another identity":    {"bob", []string{"-o", "ProxyJump=none", "-o", "ProxyCommand=ssh -F " + w.lab.SSHConfigFor("alice") + " -W %h:22 gateway", target}, []string{"somebody else"}},
	} {
		t.Run(name, func(t *testing.T) {
			got := w.as(c.person).ssh(t, nil, append(append([]string{"-o", "BatchMode=yes"}, c.args...), "true")...)
			w.checkWords(t, got, c.want)
		})
	}
}

// checkWords reads what ssh printed.
func (w *world) checkWords(t *testing.T, got result, want []string) {
	t.Helper()
	if got.code != 255 || got.stdout != "" {
		t.Errorf("ssh did not fail cleanly: %s", got)
	}
	for _, part := range want {
		if !strings.Contains(got.stderr, part) {
			t.Errorf("the person does not read %q, but: %s", part, got.stderr)
		}
	}
	ref := reference.FindStringSubmatch(got.stderr)
	if ref == nil {
		t.Fatalf("no reference in: %s", got.stderr)
	}
	w.eventually(t, "the log has reference "+ref[1], func() bool { return strings.Contains(w.log.String(), ref[1]) })
}

// TestWordsInDirectShape reads a failure on the way in that has no jump.
func TestWordsInDirectShape(t *testing.T) {
	w := worldOf(t, "embedded")
	got := w.ssh(t, nil, "ec2-user@"+lab.StoppedInstance+"@gateway", "true")
	w.checkWords(t, got, []string{"is stopped", "start it"})
}

// TestThrottled has AWS ask for fewer calls for as long as anybody tries.
func TestThrottled(t *testing.T) {
	w := worldOf(t, "embedded")
	if err := w.lab.AWS.SetFaults(awsemu.Scope{}, awsemu.Faults{Throttle: map[string]int{"ssm:StartSession": 1000}}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := w.lab.AWS.SetFaults(awsemu.Scope{}, awsemu.Faults{}); err != nil {
			t.Error(err)
		}
	}()
	w.checkWords(t, w.ssh(t, nil, target, "true"), []string{"AWS asks for fewer calls", "wait a minute"})
}

// TestChangedHostKey pins another key for the machine than it has. It is refused with both fingerprints and the command that forgets the old one;
// once forgotten, the machine can be reached.
func TestChangedHostKey(t *testing.T) {
	w := worldOf(t, "embedded")
	place := lab.AccountID + "/" + lab.Region + "/" + lab.MainInstance
	other, err := os.ReadFile(w.lab.UserKey("mallory") + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	w.gatewayCommand(t, "pins", "add", "--config", w.lab.GatewayConfig, place, strings.TrimSpace(string(other)))
	got := w.ssh(t, nil, target, "true")
	w.checkWords(t, got, []string{"shows another host key than before", "SHA256:", "pins rm " + place})
	if n := len(regexp.MustCompile(`SHA256:[A-Za-z0-9+/]{43}`).FindAllString(got.stderr, -1)); n < 2 {
		t.Errorf("%d fingerprints where two are due: %s", n, got.stderr)
	}
	w.gatewayCommand(t, "pins", "rm", "--config", w.lab.GatewayConfig, place)
	if got := w.ssh(t, nil, target, "echo reached"); got.stdout != "reached\n" {
		t.Errorf("after forgetting: %s", got)
	}
}

// TestSessionEndedByAWS has the service end a session under a running command.
func TestSessionEndedByAWS(t *testing.T) {
	w := worldOf(t, "embedded")
	cmd := w.command("ssh", target, "echo up; sleep 600")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr logBuffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stdout.Read(make([]byte, 3)); err != nil {
		t.Fatal(err)
	}
	for _, session := range w.lab.AWS.Sessions() {
		w.lab.AWS.End(session.ID, "the session reached its maximum duration")
	}
	limit := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
	defer limit.Stop()
	_ = cmd.Wait()
	w.checkWords(t, result{stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}, []string{"Session Manager ended the session", "connect again"})
}

// gatewayCommand runs one of the gateway's own commands, which must succeed.
func (w *world) gatewayCommand(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binary, args...)
	cmd.Env = append(os.Environ(), w.lab.Environ()...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", strings.Join(args, " "), err, out)
	}
	return string(out)
}

// TestPlaceInTheQueue has a crowd come to a gateway that may start a session every two seconds. Nobody is refused, and who waits long is told their place.
func TestPlaceInTheQueue(t *testing.T) {
	w := worldOf(t, "embedded, slow starts")
	var crowd errgroup.Group
	said := make([]logBuffer, 4)
	for i := range said {
		crowd.Go(func() error {
			cmd := w.command("ssh", target, "true")
			cmd.Stderr = &said[i]
			limit := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
			defer limit.Stop()
			return cmd.Run()
		})
	}
	err := crowd.Wait()
	told := 0
	for i := range said {
		if regexp.MustCompile(`place \d+ in the queue for ssm:StartSession in ` + lab.Region + `, about \d+s`).MatchString(said[i].String()) {
			told++
		}
		if err != nil {
			t.Errorf("one was refused (%v); number %d was told %q", err, i, said[i].String())
		}
	}
	if told == 0 {
		t.Error("nobody was told their place")
	}
}

// TestMoshIsTold reads what mosh(1) would show of its server's start. The direct shape is the one in which its client would have waited for UDP in vain.
func TestMoshIsTold(t *testing.T) {
	w := worldOf(t, "embedded")
	for shape, host := range map[string]string{"jump": target, "direct": target + "@gateway"} {
		t.Run(shape, func(t *testing.T) {
			got := w.ssh(t, nil, "-o", "BatchMode=yes", host, "--", "mosh-server 'new' '-c' '8' '-s'")
			w.checkWords(t, got, []string{"mosh needs UDP to the machine", "plain ssh", "tmux"})
		})
	}
}
