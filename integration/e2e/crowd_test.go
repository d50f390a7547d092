package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// AWS publishes no rates of these calls, and throttles. The emulator does at a low one, and the gateway is told to stay below it: its bursts are smaller, because
// calls that left it evenly may arrive less so: by three seconds and a half, on a busy machine.
var rations = map[string]awsemu.Rate{
	"ssm:StartSession":                      {PerSecond: 2, Burst: 12},
	"ec2-instance-connect:SendSSHPublicKey": {PerSecond: 2, Burst: 12},
}

const rationed = "start_sessions_per_second = 2\nstart_sessions_burst = 5\npush_keys_per_second = 2\npush_keys_burst = 5\n"

// rationWatch counts what is asked of AWS.
type rationWatch struct {
	w    *world
	from time.Time
}

func watchRations(w *world) rationWatch { return rationWatch{w, time.Now()} }

// check wants no call throttled, and no more keys pushed than one after the other, each of which serves 45 seconds. It gives how many sessions were started.
func (r rationWatch) check(t *testing.T) (sessions int) {
	t.Helper()
	keys := 2 + int(time.Since(r.from)/(45*time.Second))
	count := map[string]int{}
	for _, call := range r.w.callsSince(r.from) {
		count[call.Action]++
		if call.Error != "" {
			t.Errorf("%s was answered %s", call.Action, call.Error)
		}
	}
	if count["SendSSHPublicKey"] > keys {
		t.Errorf("%d keys were pushed, want at most %d", count["SendSSHPublicKey"], keys)
	}
	return count["StartSession"]
}

// crowd runs ssh so many times at once, jumping and direct by turns, and gives what each was told.
func (w *world) crowd(t *testing.T, size int) []string {
	t.Helper()
	said := make([]logBuffer, size)
	var all errgroup.Group
	for i := range size {
		all.Go(func() error {
			cmd := w.command("ssh", []string{target, target + "@gateway"}[i%2], "exit 3")
			cmd.Stderr = &said[i]
			limit := time.AfterFunc(patience, func() { _ = cmd.Process.Kill() })
			defer limit.Stop()
			if err := cmd.Run(); cmd.ProcessState.ExitCode() != 3 {
				return fmt.Errorf("number %d: %w: %s", i, err, said[i].String())
			}
			return nil
		})
	}
	if err := all.Wait(); err != nil {
		t.Error(err)
	}
	told := make([]string, size)
	for i := range said {
		told[i] = said[i].String()
	}
	return told
}

// TestACrowdAtOneMachine: sshd drops connections at random from ten unfinished logins on, and nobody here is dropped.
func TestACrowdAtOneMachine(t *testing.T) {
	worldOf(t, "sshd, fast agent").crowd(t, 30)
}

// TestACrowdWithinAWSsRates: nobody is refused by AWS or by the gateway, and who waits long reads why.
func TestACrowdWithinAWSsRates(t *testing.T) {
	w := worldOf(t, "sshd, rationed")
	watch := watchRations(w)
	told := strings.Join(w.crowd(t, 20), "")
	watch.check(t)
	for _, want := range []string{"in the queue for ssm:StartSession", "other logins to "} {
		if !strings.Contains(told, want) {
			t.Errorf("nobody read %q in %q", want, told)
		}
	}
}

// TestAnsibleWithTwentyForks has twenty hosts of an inventory, all of them one machine, each with a connection of its own for every step of every task.
func TestAnsibleWithTwentyForks(t *testing.T) {
	const hosts = 20
	if _, err := exec.LookPath("ansible"); err != nil {
		t.Skip("ansible is not installed: " + err.Error())
	}
	w := worldOf(t, "sshd, rationed")
	dir := t.TempDir()
	user, name, _ := strings.Cut(target, "@")
	var inventory strings.Builder
	for i := range hosts {
		fmt.Fprintf(&inventory, "h%02d ansible_host=%s ansible_user=%s ansible_python_interpreter=/usr/bin/python3\n", i, name, user)
	}
	write(t, filepath.Join(dir, "hosts"), []byte(inventory.String()))
	for _, pipelining := range []string{"True", "False"} {
		watch := watchRations(w)
		cmd := exec.Command("ansible", "-i", filepath.Join(dir, "hosts"), "-f", "20", "-o", "-m", "shell", "-a", "echo on-$(id -un)-for-{{ inventory_hostname }}", "all")
		cmd.Env = append(os.Environ(), "HOME="+dir, "SSH_AUTH_SOCK=", "LC_ALL=C.UTF-8", "ANSIBLE_NOCOLOR=1", "ANSIBLE_HOST_KEY_CHECKING=False", "ANSIBLE_SSH_RETRIES=0",
			"ANSIBLE_TIMEOUT=60", "ANSIBLE_PIPELINING="+pipelining, "ANSIBLE_SSH_ARGS=-F "+w.sshConfig+" -o ControlMaster=no -o ControlPath=none")
		got := runFor(t, 3*patience, cmd, nil)
		for i := range hosts {
			if want := fmt.Sprintf("on-%s-for-h%02d", user, i); strings.Count(got.stdout, want) != 1 {
				t.Errorf("pipelining %s: no %s", pipelining, want)
			}
		}
		if got.code != 0 || t.Failed() {
			t.Fatalf("pipelining %s: %s", pipelining, got)
		}
		watch.check(t)
	}
}

// TestAGitFetchLoop has a second clone follow the first, push by push: a connection finds the session of the one before.
func TestAGitFetchLoop(t *testing.T) {
	const rounds = 10
	w := worldOf(t, "sshd, rationed")
	remote, local := testkit.SocketDir(t), t.TempDir()
	git := func(args ...string) result {
		cmd := exec.Command("git", args...)
		cmd.Dir = local
		cmd.Env = append(os.Environ(), "GIT_SSH_COMMAND=ssh -F "+w.sshConfig, "SSH_AUTH_SOCK=", "HOME="+local, "GIT_CONFIG_NOSYSTEM=1",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@lab", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@lab")
		got := runResult(t, cmd, nil)
		if got.code != 0 {
			t.Fatalf("git %s: %s", strings.Join(args, " "), got)
		}
		return got
	}
	watch := watchRations(w)
	w.run(t, "ssh", target, "git init -q --bare -b main "+remote+"/repo")
	from := target + ":" + remote + "/repo"
	git("init", "-q", "-b", "main", "a")
	git("-C", "a", "commit", "-q", "--allow-empty", "-m", "0")
	git("-C", "a", "push", "-q", from, "main")
	git("clone", "-q", from, "b")
	for i := range rounds {
		git("-C", "a", "commit", "-q", "--allow-empty", "-m", fmt.Sprint(i+1))
		git("-C", "a", "push", "-q", from, "main")
		git("-C", "b", "fetch", "-q")
		if pushed, fetched := git("-C", "a", "rev-parse", "main"), git("-C", "b", "rev-parse", "origin/main"); pushed.stdout != fetched.stdout {
			t.Fatalf("pushed %q, fetched %q", pushed.stdout, fetched.stdout)
		}
	}
	if sessions := watch.check(t); sessions > rounds { // of twice as many connections; a machine that is slow to give a sign of life costs a new one
		t.Errorf("%d sessions were started", sessions)
	}
}
