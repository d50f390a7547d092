package gateway

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// shellWorld is a world whose machine has no sshd. The sessions that stand in for it are sent to opened.
func shellWorld(t *testing.T, policy string) (w *world, opened chan *fakeShell) {
	t.Helper()
	opened = make(chan *fakeShell, 16)
	w = newWorld(t, worldOptions{policy: policy, cfg: func(c *Config) {
		c.SessionShell = true
		cloud, _ := c.Cloud.(*fakeCloud)
		c.DialShell = func(ctx context.Context, grant ssmproto.Grant) (ShellSession, error) {
			s, err := cloud.dialShell(ctx, grant)
			if shell, ok := s.(*fakeShell); ok {
				opened <- shell
			}
			return s, err
		}
	}})
	w.cloud.port = func(int) (net.Conn, error) { return nil, ssmproto.ErrConnectToPort }
	return w, opened
}

// inDirectShapeAndBehindAJump runs a test on both ways to a machine.
func (w *world) inDirectShapeAndBehindAJump(t *testing.T, osUser string, test func(t *testing.T, client *ssh.Client)) {
	t.Helper()
	t.Run("direct", func(t *testing.T) {
		test(t, w.mustConnect(t, as(osUser+"@"+worldInstance, w.keys["alice"])))
	})
	t.Run("jump", func(t *testing.T) {
		client, err := w.jump(t, w.mustConnect(t, as("x", w.keys["alice"])), worldInstance+":22", as(osUser, w.keys["alice"]))
		if err != nil {
			t.Fatal(err)
		}
		test(t, client)
	})
}

func TestACommandWithoutSSHD(t *testing.T) {
	w, _ := shellWorld(t, everythingPolicy)
	w.inDirectShapeAndBehindAJump(t, "ssm-user", func(t *testing.T, client *ssh.Client) {
		for command, want := range map[string]struct {
			out    string
			status int
		}{"echo hello": {"hello\n", 0}, "echo 'it''s'; exit 7": {"its\n", 7}, "false": {"", 1}} {
			out, errs, status := run(t, client, command)
			if out != want.out || status != want.status {
				t.Errorf("%s: %q, status %d", command, out, status)
			}
			if !strings.HasPrefix(errs, "no sshd on "+worldInstance+": the command runs through Session Manager") {
				t.Errorf("%s: announced as %q", command, errs)
			}
		}
	})
	e := w.audit.wait(t, "the session", func(e Event) bool { return e.Event == EventUpstreamOpened })
	if e.Mode != "session-manager-shell" || e.SessionID == "" || e.Person != "alice" || e.OSUser != "ssm-user" || e.Role != worldRole {
		t.Errorf("audited as %+v", e)
	}
	if reason := w.cloud.reasons[len(w.cloud.reasons)-1]; !strings.HasPrefix(reason, "ssm-ssh-gateway alice ref ") {
		t.Errorf("reason of the session: %q", reason)
	}
}

func TestACommandWithoutSSHDTakesNoInput(t *testing.T) {
	w, _ := shellWorld(t, everythingPolicy)
	client := w.mustConnect(t, as("ssm-user@"+worldInstance, w.keys["alice"]))
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var errs testkit.Buffer
	session.Stdin, session.Stderr = strings.NewReader("ignored"), &errs
	noticed := filepath.Join(t.TempDir(), "noticed")
	told := make(chan struct{})
	go func() {
		defer close(told)
		testkit.Eventually(t, "the word about the input", func() bool {
			return strings.Contains(errs.String(), "takes no input: what is sent to it is dropped")
		})
		if err := os.WriteFile(noticed, nil, 0o600); err != nil {
			t.Error(err)
		}
	}()
	var out []byte
	testkit.Within(t, "the command", func() { out, err = session.Output("until test -e '" + noticed + "'; do sleep 0.02; done; echo done") })
	if <-told; err != nil || string(out) != "done\n" {
		t.Errorf("%q, %v, told %q", out, err, errs.String())
	}
}

func TestAShellWithoutSSHD(t *testing.T) {
	w, opened := shellWorld(t, everythingPolicy)
	w.inDirectShapeAndBehindAJump(t, "ssm-user", func(t *testing.T, client *ssh.Client) {
		session, err := client.NewSession()
		if err != nil {
			t.Fatal(err)
		}
		if err := session.RequestPty("xterm", 40, 120, nil); err != nil {
			t.Fatal(err)
		}
		stdin, err := session.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		var out, errs testkit.Buffer
		session.Stdout, session.Stderr = &out, &errs
		if err := session.Shell(); err != nil {
			t.Fatal(err)
		}
		shell := testkit.Receive(t, opened, "the session")
		if size := testkit.Receive(t, shell.sizes, "the size"); size != (ssmproto.Size{Cols: 120, Rows: 40}) {
			t.Errorf("first size %v", size)
		}
		if err := session.WindowChange(50, 100); err != nil {
			t.Fatal(err)
		}
		if size := testkit.Receive(t, shell.sizes, "the new size"); size != (ssmproto.Size{Cols: 100, Rows: 50}) {
			t.Errorf("then size %v", size)
		}
		if err := session.Signal(ssh.SIGINT); err != nil {
			t.Fatal(err)
		}
		if code := testkit.Receive(t, shell.signals, "the signal"); code != ssmproto.Interrupt {
			t.Errorf("signal %x", code)
		}
		_, _ = io.WriteString(stdin, "hello\nexit\n")
		testkit.Within(t, "the end of the shell", func() { err = session.Wait() })
		if err != nil || out.String() != "echo hello\n" || !strings.Contains(errs.String(), "this is a Session Manager shell") {
			t.Errorf("ended with %v, %q, told %q", err, out.String(), errs.String())
		}
		_ = client.Close()
	})
}

// TestAWindowThatChangesWhileAShellBegins: nobody else tells the shell.
func TestAWindowThatChangesWhileAShellBegins(t *testing.T) {
	w, opened := shellWorld(t, everythingPolicy)
	client := w.mustConnect(t, as("ssm-user@"+worldInstance, w.keys["alice"]))
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := session.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := session.RequestPty("xterm", 40, 120, nil); err != nil {
		t.Fatal(err)
	}
	change := sync.OnceFunc(func() {
		_ = session.WindowChange(50, 100)
		_, _ = session.SendRequest("keepalive@openssh.com", true, nil) // answered after the one before
	})
	dial := w.srv.cfg.DialShell
	w.srv.cfg.DialShell = func(ctx context.Context, grant ssmproto.Grant) (ShellSession, error) {
		s, err := dial(ctx, grant)
		if shell, ok := s.(*fakeShell); ok {
			shell.resized = change
		}
		return s, err
	}
	if err := session.Shell(); err != nil {
		t.Fatal(err)
	}
	shell := testkit.Receive(t, opened, "the session")
	for _, want := range []ssmproto.Size{{Cols: 120, Rows: 40}, {Cols: 100, Rows: 50}} {
		if size := testkit.Receive(t, shell.sizes, "a size"); size != want {
			t.Errorf("size %v, want %v", size, want)
		}
	}
	_ = client.Close()
}

func TestWhatEndsAShellWithoutSSHD(t *testing.T) {
	for name, end := range map[string]func(session *ssh.Session, stdin io.Closer, client *ssh.Client){
		"the end of input":     func(_ *ssh.Session, stdin io.Closer, _ *ssh.Client) { _ = stdin.Close() },
		"a signal":             func(session *ssh.Session, _ io.Closer, _ *ssh.Client) { _ = session.Signal(ssh.SIGTERM) },
		"the client closes":    func(session *ssh.Session, _ io.Closer, _ *ssh.Client) { _ = session.Close() },
		"the client's leaving": func(_ *ssh.Session, _ io.Closer, client *ssh.Client) { _ = client.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w, opened := shellWorld(t, everythingPolicy)
			client := w.mustConnect(t, as("ssm-user@"+worldInstance, w.keys["alice"]))
			session, err := client.NewSession()
			if err != nil {
				t.Fatal(err)
			}
			stdin, err := session.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := session.Shell(); err != nil {
				t.Fatal(err)
			}
			shell := testkit.Receive(t, opened, "the session")
			end(session, stdin, client)
			testkit.Receive(t, shell.closed, "the end of the Session Manager session")
			testkit.Within(t, "the end for the client", func() { err = session.Wait() })
			var exit *ssh.ExitError
			if name == "a signal" && (!errors.As(err, &exit) || exit.Signal() != "TERM") {
				t.Errorf("ended with %v", err)
			}
		})
	}
}

// TestWhatNeedsSSHDIsRefusedInWords: files, forwards, agent and X11.
func TestWhatNeedsSSHDIsRefusedInWords(t *testing.T) {
	w, _ := shellWorld(t, everythingPolicy)
	client := w.mustConnect(t, as("ssm-user@"+worldInstance, w.keys["alice"]))
	stream, reqs, err := client.OpenChannel("session", nil)
	if err != nil {
		t.Fatal(err)
	}
	if ok, err := stream.SendRequest("subsystem", true, ssh.Marshal(struct{ Name string }{"sftp"})); !ok || err != nil {
		t.Fatalf("the subsystem is refused without words: %v", err)
	}
	told, err := io.ReadAll(stream.Stderr())
	if err != nil || !strings.Contains(string(told), "sftp needs sshd, which does not answer on "+worldInstance) {
		t.Errorf("sftp: told %q, %v", told, err)
	}
	if end := testkit.Receive(t, reqs, "the end of sftp"); end.Type != "exit-status" || !bytes.Equal(end.Payload, ssh.Marshal(struct{ Status uint32 }{bridge.RefusedStatus})) {
		t.Errorf("sftp ended with %s %x", end.Type, end.Payload)
	}
	_, err = client.Dial("tcp", "localhost:80")
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) || !strings.Contains(refused.Message, "forward-local needs sshd") {
		t.Errorf("a forward was refused with %v", err)
	}
	if _, err := client.Listen("tcp", "localhost:0"); err == nil {
		t.Error("a remote forward was granted")
	}
	beside, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var errs testkit.Buffer
	beside.Stderr = &errs
	for _, request := range []string{"auth-agent-req@openssh.com", "x11-req"} {
		if ok, err := beside.SendRequest(request, true, nil); ok || err != nil {
			t.Errorf("%s: %v %v", request, ok, err)
		}
	}
	if err := beside.Run("true"); err != nil {
		t.Error(err)
	}
	for _, want := range []string{"agent-forward needs sshd", "x11 needs sshd"} {
		if !strings.Contains(errs.String(), want) {
			t.Errorf("told %q, want %q", errs.String(), want)
		}
	}
}

// noShells permits everything but what stands in for an sshd.
const noShells = everythingPolicy + `@id("no") forbid (principal, action == Action::"session-manager-shell", resource);`

// TestDoorsOfTheSessionManagerShell: it is off, not permitted, for another OS user, or refused by IAM.
func TestDoorsOfTheSessionManagerShell(t *testing.T) {
	const hint = "nothing answers on port 22 of " + worldInstance + " (as ssm-user you get a Session Manager shell instead)"
	denied := &authz.Refusal{Reason: authz.ReasonAccessDenied, Action: "ssm:StartSession", Role: worldRole}
	for _, c := range []struct {
		name, policy, osUser string
		shell                error
		told, never          string
	}{
		{"without a policy", "", "ssm-user", nil, "nothing answers on port 22 of " + worldInstance + ";", "Session Manager shell"},
		{"not permitted", noShells, "ssm-user", nil, "nothing answers on port 22", "Session Manager shell"},
		{"as another OS user", everythingPolicy, "ec2-user", nil, hint, "no sshd on"},
		{"commands are not permitted", strings.Replace(noShells, "session-manager-shell", "exec", 1), "ssm-user", nil, "exec is not permitted", "no sshd on"},
		{"IAM does not permit the document", everythingPolicy, "ssm-user", denied, "AWS does not allow ssm:StartSession as " + worldRole, "nothing answers"},
	} {
		t.Run(c.name, func(t *testing.T) {
			w, _ := shellWorld(t, c.policy)
			w.cloud.refuseCall("shell", c.shell)
			client := w.mustConnect(t, as(c.osUser+"@"+worldInstance, w.keys["alice"]))
			told := refusalOf(t, client)
			if !strings.Contains(told, c.told) || strings.Contains(told, c.never) {
				t.Errorf("told %q, want %q and not %q", told, c.told, c.never)
			}
			w.cloud.mu.Lock()
			defer w.cloud.mu.Unlock()
			if len(w.cloud.shells) != 0 {
				t.Error("a session was started")
			}
		})
	}
	t.Run("switched off", func(t *testing.T) {
		w := newWorld(t, worldOptions{policy: everythingPolicy})
		w.cloud.port = func(int) (net.Conn, error) { return nil, ssmproto.ErrConnectToPort }
		client := w.mustConnect(t, as("ssm-user@"+worldInstance, w.keys["alice"]))
		if told := refusalOf(t, client); !strings.Contains(told, "nothing answers on port 22") {
			t.Errorf("told %q", told)
		}
	})
}

// refusalOf is what a person reads who runs a command that is refused: on the channel or on stderr.
func refusalOf(t *testing.T, client *ssh.Client) string {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		return err.Error()
	}
	defer func() { _ = session.Close() }()
	var errs testkit.Buffer
	session.Stderr = &errs
	testkit.Within(t, "the refusal", func() { err = session.Run("id") })
	if err == nil {
		t.Error("the command ran")
	}
	return errs.String()
}

// TestPolicyKnowsOfNoSSHD: then the port is not even tried.
func TestPolicyKnowsOfNoSSHD(t *testing.T) {
	for name, policy := range map[string]string{
		"for everybody":   `@id("a") @sshd("none") permit (principal, action, resource);`,
		"for one OS user": `@id("a") permit (principal, action, resource); @id("b") @sshd("none") permit (principal, action, resource) when { context.osUser == "ssm-user" };`,
	} {
		t.Run(name, func(t *testing.T) {
			w, _ := shellWorld(t, policy)
			w.cloud.port = nil // sshd would answer
			w.inDirectShapeAndBehindAJump(t, "ssm-user", func(t *testing.T, client *ssh.Client) {
				if out, errs, status := run(t, client, "echo hello"); out != "hello\n" || status != 0 || !strings.Contains(errs, "no sshd on") {
					t.Errorf("%q, told %q, status %d", out, errs, status)
				}
			})
			if w.machine.offered != 0 {
				t.Error("sshd was asked")
			}
		})
	}
	w, _ := shellWorld(t, `@id("a") @sshd("none") permit (principal, action, resource); @id("b") forbid (principal, action == Action::"session-manager-shell", resource);`)
	client := w.mustConnect(t, as("ssm-user@"+worldInstance, w.keys["alice"]))
	if told := refusalOf(t, client); !strings.Contains(told, "session-manager-shell is not permitted") {
		t.Errorf("told %q", told)
	}
}

// TestAReloadThatTakesTheShellAway cuts those that stand in for an sshd.
func TestAReloadThatTakesTheShellAway(t *testing.T) {
	w, opened := shellWorld(t, everythingPolicy)
	client := w.mustConnect(t, as("ssm-user@"+worldInstance, w.keys["alice"]))
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var errs testkit.Buffer
	session.Stderr = &errs
	if _, err := session.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := session.Shell(); err != nil {
		t.Fatal(err)
	}
	shell := testkit.Receive(t, opened, "the session")
	w.srv.Reload(w.directory(t), policyOf(t, noShells))
	testkit.Receive(t, shell.closed, "the end of the Session Manager session")
	testkit.Within(t, "the end for the client", func() { _ = session.Wait() })
	if !strings.Contains(errs.String(), "session-manager-shell is not permitted") {
		t.Errorf("told %q", errs.String())
	}
}

// TestASilentMachineIsNotWaitedForAgain: for a minute everybody who may have a shell gets one at once, and everybody else sshd's full time.
func TestASilentMachineIsNotWaitedForAgain(t *testing.T) {
	w, _ := shellWorld(t, everythingPolicy)
	var tried atomic.Int64
	w.cloud.port = func(int) (net.Conn, error) {
		tried.Add(1)
		return nil, ssmproto.ErrConnectToPort
	}
	for range 2 {
		if out, _, _ := run(t, w.mustConnect(t, as("ssm-user@"+worldInstance, w.keys["alice"])), "echo hello"); out != "hello\n" {
			t.Errorf("%q", out)
		}
	}
	if n := tried.Load(); n != 1 {
		t.Errorf("the port was tried %d times", n)
	}
	_ = refusalOf(t, w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"])))
	if n := tried.Load(); n != 2 {
		t.Errorf("for another user the port was tried %d times", n-1)
	}
}
