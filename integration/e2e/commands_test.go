package e2e

import (
	"bufio"
	"bytes"
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/hostkeys"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// TestExplain asks for decisions without starting anything.
func TestExplain(t *testing.T) {
	w := worldOf(t, "embedded")
	from := time.Now()
	out := w.gatewayCommand(t, "explain", "--config", w.lab.GatewayConfig, "alice", "web-1")
	for _, want := range []string{"alice", lab.MainInstance, "role/ssh-gw-user/alice", "connect", "everybody"} {
		if !strings.Contains(out, want) {
			t.Errorf("explain does not say %q:\n%s", want, out)
		}
	}
	for _, call := range w.beginningsSince(from) {
		if !strings.HasPrefix(call.Action, "Describe") {
			t.Errorf("explain called %s", call.Action)
		}
	}
	refused := exec.Command(binary, "explain", "--config", w.lab.GatewayConfig, "--json", "alice", lab.ForbiddenInstance)
	refused.Env = append(os.Environ(), w.lab.Environ()...)
	got := runResult(t, refused, nil)
	if got.code != 1 || !strings.Contains(got.stdout, "quarantine") {
		t.Errorf("explain of a forbidden machine: %s", got)
	}
}

// TestAlone starts a gateway without any file, for one person with the credentials of their environment.
func TestAlone(t *testing.T) {
	w := worldOf(t, "embedded")
	address := testkit.FreeAddress(t)
	cmd := exec.Command(binary, "serve", "--authorized-keys", w.lab.UserKey("alice")+".pub", "--listen", address, "--state-dir", t.TempDir())
	cmd.Env = append(os.Environ(), w.lab.ConnectEnviron("alice")...)
	background(t, cmd)
	if err := awaitTCP(address); err != nil {
		t.Fatal(err)
	}
	healthy := w.gatewayCommand(t, "healthcheck", "--address", address)
	if healthy != "" {
		t.Errorf("a healthy gateway is no news, but: %s", healthy)
	}
	_, port, _ := net.SplitHostPort(address)
	got := w.ssh(t, nil, "-o", "StrictHostKeyChecking=accept-new", "-o", "UserKnownHostsFile="+filepath.Join(t.TempDir(), "known_hosts"),
		"-o", "HostKeyAlias=alone", "-p", port, "ec2-user@"+lab.MainInstance+"@gateway", "echo reached")
	if got.stdout != "reached\n" {
		t.Errorf("through a gateway of one's own: %s", got)
	}
}

// TestDemo is the README's first command, with an exit status, and with a file to copy.
func TestDemo(t *testing.T) {
	demo := exec.Command(binary, "demo", "ssh", target, "echo reached; exit 7")
	if got := runResult(t, demo, nil); got.code != 7 || got.stdout != "reached\n" {
		t.Errorf("demo ssh: %s", got)
	}
	dir := t.TempDir()
	write(t, filepath.Join(dir, "up"), []byte("content"))
	script := `scp -q -F "$DEMO_SSH_CONFIG" "$0/up" ec2-user@web-1:copy && scp -q -F "$DEMO_SSH_CONFIG" ec2-user@web-1:copy "$0/down"`
	if got := runResult(t, exec.Command(binary, "demo", "sh", "-c", script, dir), nil); got.code != 0 {
		t.Errorf("demo sh: %s", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "down")); err != nil || string(got) != "content" {
		t.Errorf("what came back is %q (%v)", got, err)
	}
	if got := runResult(t, exec.Command(binary, "demo", "no-such-program"), nil); got.code != 127 {
		t.Errorf("demo of a program that is not there: %s", got)
	}
}

// TestDemoStays keeps the lab up without a command, until it is interrupted.
func TestDemoStays(t *testing.T) {
	cmd := exec.Command(binary, "demo")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(stdout)
	var config string
	for config == "" && lines.Scan() {
		if match := regexp.MustCompile(`-F (\S+)`).FindStringSubmatch(lines.Text()); match != nil {
			config = match[1]
		}
	}
	ssh := exec.Command("ssh", "-F", config, target, "echo reached")
	if got := runResult(t, ssh, nil); got.stdout != "reached\n" {
		t.Errorf("with the configuration that demo prints: %s", got)
	}
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("demo did not end well: %v", err)
	}
	if _, err := os.Stat(config); !os.IsNotExist(err) {
		t.Errorf("the lab's files are still there (%v)", err)
	}
}

// ownWorld is a lab of the test's own, for what changes or ends the gateway.
func ownWorld(t *testing.T) *world {
	t.Helper()
	w, err := startWorld("embedded")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.stop)
	return w
}

// TestReloadCutsThePersonWhoLeft takes bob out of the configuration while he is logged in, and alice's session goes on.
func TestReloadCutsThePersonWhoLeft(t *testing.T) {
	w := ownWorld(t)
	staying, leaving := w.holdSession(t, "alice"), w.holdSession(t, "bob")
	text, err := os.ReadFile(w.lab.GatewayConfig)
	if err != nil {
		t.Fatal(err)
	}
	without := strings.Replace(string(text), `principals = ["bob"]`, `principals = ["robert"]`, 1)
	write(t, w.lab.GatewayConfig, []byte(without))
	if err := w.gateway.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if code := leaving.wait(t); code == 0 {
		t.Error("bob's session ended as if nothing had happened")
	}
	staying.stdin.Close()
	if code := staying.wait(t); code != 0 {
		t.Errorf("alice's session ended with %d: %s", code, &staying.stderr)
	}
	if got := w.as("bob").ssh(t, nil, target, "true"); got.code != 255 {
		t.Errorf("bob comes in again: %s", got)
	}
	write(t, w.lab.GatewayConfig, []byte("listen = 7"))
	if err := w.gateway.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "the log refuses the broken configuration", func() bool { return strings.Contains(w.log.String(), "reload refused") })
	if got := w.ssh(t, nil, target, "true"); got.code != 0 {
		t.Errorf("after a reload that was refused: %s", got)
	}
}

// TestStopLetsSessionsEnd stops the gateway under a session, which may finish what it does, and no session is left open at AWS.
func TestStopLetsSessionsEnd(t *testing.T) {
	w := ownWorld(t)
	session := w.holdSession(t, "alice")
	if err := w.gateway.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "nobody new gets in", func() bool {
		conn, err := net.Dial("tcp", w.lab.GatewayAddr)
		if err == nil {
			_ = conn.Close()
		}
		return err != nil
	})
	session.stdin.Close()
	if code := session.wait(t); code != 0 {
		t.Errorf("the session was not left to end: %d: %s", code, &session.stderr)
	}
	w.eventually(t, "no session is open at AWS", func() bool { return w.openSessions() == 0 })
}

// TestAudit reads the story of one command in the audit log.
func TestAudit(t *testing.T) {
	w := ownWorld(t)
	if got := w.ssh(t, nil, target, "echo hello; exit 3"); got.code != 3 {
		t.Fatalf("%s", got)
	}
	var story []gateway.Event
	w.eventually(t, "the audit has the end of the connection", func() bool {
		story = readAudit(t, filepath.Join(w.lab.Dir, "audit.jsonl"))
		return len(story) > 0 && story[len(story)-1].Event == gateway.EventConnectionClosed
	})
	seen := map[string]gateway.Event{}
	for _, e := range story {
		seen[e.Event] = e
	}
	if e := seen[gateway.EventUpstreamOpened]; e.Person != "alice" || e.SessionID == "" || e.OSUser != "ec2-user" || !strings.HasSuffix(e.Role, "/alice") ||
		!strings.HasSuffix(e.Instance, lab.MainInstance) || e.Fingerprint == "" || e.Source == "" {
		t.Errorf("the audit does not say who reached what as whom: %+v", e)
	} else if e.HostKey == "" || e.HostKeyHow != hostkeys.BelievedConsole {
		t.Errorf("the machine's host key was believed by %q, where its console shows it", e.HostKeyHow)
	}
	if e := seen[gateway.EventChannelRequest]; e.Request != "exec" || e.Detail != "echo hello; exit 3" {
		t.Errorf("the audit does not have the command: %+v", e)
	}
	if e := seen[gateway.EventChannelClosed]; e.ExitStatus == nil || *e.ExitStatus != 3 || e.BytesOut != int64(len("hello\n")) {
		t.Errorf("the audit does not have the exit status and the bytes: %+v", e)
	}
}

func readAudit(t *testing.T, path string) []gateway.Event {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var story []gateway.Event
	for line := range bytes.Lines(text) {
		var e gateway.Event
		if err := json.Unmarshal(line, &e); err != nil {
			break // the last line may be half written
		}
		story = append(story, e)
	}
	return story
}

// heldSession is a remote cat: it lives until its input ends or somebody cuts it.
type heldSession struct {
	cmd    *exec.Cmd
	stdin  interface{ Close() error }
	stderr logBuffer
}

func (w *world) holdSession(t *testing.T, person string) *heldSession {
	t.Helper()
	s := &heldSession{cmd: w.as(person).command("ssh", target, "echo up; cat")}
	stdin, err := s.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := s.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.stdin, s.cmd.Stderr = stdin, &s.stderr
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.cmd.Process.Kill() })
	if _, err := stdout.Read(make([]byte, 3)); err != nil {
		t.Fatalf("%s's session: %v: %s", person, err, &s.stderr)
	}
	return s
}

// wait gives the exit status.
func (s *heldSession) wait(t *testing.T) int {
	t.Helper()
	timer := time.AfterFunc(patience, func() { _ = s.cmd.Process.Kill() })
	defer timer.Stop()
	_ = s.cmd.Wait()
	return s.cmd.ProcessState.ExitCode()
}
