//go:build unix

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/creack/pty"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// awsCLI is AWS's own command line in the lab, with this program as its plugin: testscript has put it on the PATH under that name.
func awsCLI(t *testing.T, l *lab.Lab, args ...string) *exec.Cmd {
	t.Helper()
	cli, err := exec.LookPath("aws")
	if err != nil {
		t.Skip("aws is not here: run make tools")
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, cli, args...)
	cmd.Env = append(cliEnviron(l), "AWS_PAGER=")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// cliEnviron is a laptop's environment without empty values, which the AWS command line does not take for missing ones.
func cliEnviron(l *lab.Lab) []string {
	environ := slices.DeleteFunc(os.Environ(), func(entry string) bool { return strings.HasPrefix(entry, "AWS_") })
	for _, entry := range l.ConnectEnviron("alice") {
		if name, value, _ := strings.Cut(entry, "="); value != "" && name != "AWS_ENDPOINT_URL" {
			environ = append(environ, entry)
		}
	}
	return append(environ, "AWS_ENDPOINT_URL="+l.AWS.PlainURL())
}

func startSession(document string, parameters ...string) []string {
	args := []string{"ssm", "start-session", "--target", lab.MainInstance}
	if document != "" {
		args = append(args, "--document-name", document)
	}
	if len(parameters) > 0 {
		args = append(args, append([]string{"--parameters"}, parameters...)...)
	}
	return args
}

// beginCLI runs the command line in a process group of its own, as a shell does, with its output in a transcript.
func beginCLI(t *testing.T, cmd *exec.Cmd) *testkit.Transcript {
	t.Helper()
	out := testkit.NewTranscript()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait()
		}
	})
	return out
}

// endCLI interrupts the group as Ctrl-C does, and waits.
func endCLI(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGINT); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("after an interrupt: %v", err)
	}
}

// TestPluginSSH is ssh with the ProxyCommand that AWS documents. Only ssh's own bytes may come on standard output.
func TestPluginSSH(t *testing.T) {
	l := laptopLab(t)
	key := l.UserKey("alice")
	push := awsCLI(t, l, "ec2-instance-connect", "send-ssh-public-key", "--instance-id", lab.MainInstance, "--instance-os-user", "ec2-user",
		"--ssh-public-key", "file://"+key+".pub")
	if out, err := push.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	proxy := awsCLI(t, l, "ssm", "start-session", "--target", "%h", "--document-name", "AWS-StartSSHSession", "--parameters", "portNumber=%p")
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	ssh := exec.CommandContext(ctx, "ssh", "-F", "none", "-i", key, "-o", "IdentitiesOnly=yes", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes",
		"-o", "UserKnownHostsFile="+l.InstanceKnownHosts, "-o", "ProxyCommand="+strings.Join(proxy.Args, " "), "ec2-user@"+lab.MainInstance, "echo $((6*7)); exit 9")
	ssh.Env = cliEnviron(l)
	out, err := ssh.Output()
	if string(out) != "42\n" || ssh.ProcessState.ExitCode() != 9 {
		t.Errorf("ssh printed %q, %v", out, err)
	}
	nothingOpen(t, l)
}

// TestPluginForward forwards to the machine and to a host behind it. A connection that is cut is resumed with the credentials of the environment.
func TestPluginForward(t *testing.T) {
	l := laptopLab(t)
	near, behind := serveEcho(t, "127.0.0.1"), serveEcho(t, "127.0.0.2")
	for _, c := range []struct {
		document   string
		parameters []string
	}{
		{"AWS-StartPortForwardingSession", []string{"portNumber=" + near + ",localPortNumber=0"}},
		{"AWS-StartPortForwardingSessionToRemoteHost", []string{"host=127.0.0.2,portNumber=" + behind + ",localPortNumber=0"}},
	} {
		t.Run(c.document, func(t *testing.T) {
			cmd := awsCLI(t, l, startSession(c.document, c.parameters...)...)
			out := beginCLI(t, cmd)
			opened := out.Find(t, `Starting session with SessionId: (\S+)\nPort (\d+) opened for sessionId (\S+)\.\nWaiting for connections\.\.\.\n`)
			if opened[1] != opened[3] {
				t.Errorf("two sessions: %s and %s", opened[1], opened[3])
			}
			roundTrip(t, "tcp", "127.0.0.1:"+opened[2], 50<<10)
			if err := l.AWS.Cut(opened[1], awsemu.SideClient); err != nil {
				t.Error(err)
			}
			roundTrip(t, "tcp", "127.0.0.1:"+opened[2], 50<<10)
			endCLI(t, cmd)
			if text := out.String(); strings.Count(text, "Connection accepted for session ["+opened[1]+"]") != 1 || !strings.Contains(text, "Exiting session with sessionId: "+opened[1]) {
				t.Errorf("it printed %s", text)
			}
			nothingOpen(t, l)
		})
	}
}

// TestPluginEnded has the service end a forwarding: the plugin ends as well, and says why.
func TestPluginEnded(t *testing.T) {
	l := laptopLab(t)
	cmd := awsCLI(t, l, startSession("AWS-StartPortForwardingSession", "portNumber=1,localPortNumber=0")...)
	out := beginCLI(t, cmd)
	opened := out.Find(t, `Port (\d+) opened for sessionId (\S+)\.`)
	conn := dialLocal(t, opened[1])
	_, _ = io.Copy(io.Discard, conn)
	out.Find(t, "Connection to destination port failed, check SSM Agent logs.")
	l.AWS.End(opened[2], "maximum duration reached")
	if err := cmd.Wait(); err == nil {
		t.Error("a session that was ended is no success")
	}
	out.Find(t, "maximum duration reached")
	nothingOpen(t, l)
}

// TestPluginShell types at a terminal: its size arrives, Ctrl-C is the machine's, and the end of the shell is the end.
func TestPluginShell(t *testing.T) {
	l := laptopLab(t)
	cmd := awsCLI(t, l, startSession("")...)
	screen, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
	if err != nil {
		t.Fatal(err)
	}
	out := readScreen(t, screen)
	typeAt(t, out, screen, "33 101")
	if err := cmd.Wait(); err != nil {
		t.Errorf("the end of the shell: %v", err)
	}
	out.Find(t, "Exiting session with sessionId: ")
	nothingOpen(t, l)
}

// typeAt uses a shell on a terminal of the given size and leaves it.
func typeAt(t *testing.T, out *testkit.Transcript, screen *os.File, size string) {
	t.Helper()
	out.Find(t, prompt)
	_, _ = fmt.Fprintf(screen, "until stty size | grep -q '^%s$'; do sleep 0.05; done; echo size $(stty size)\r", size)
	out.Find(t, "size "+size)
	_, _ = io.WriteString(screen, "echo begin $((40+2)); sleep 600\r")
	out.Find(t, "begin 42")
	_, _ = io.WriteString(screen, "\x03")
	_, _ = io.WriteString(screen, "echo after $((40+3))\r")
	out.Find(t, "after 43")
	_, _ = io.WriteString(screen, "exit\r")
}

// readScreen collects what a terminal shows, until its programs are gone: Linux ends reading with EIO then.
func readScreen(t *testing.T, screen *os.File) *testkit.Transcript {
	t.Helper()
	out, ended := testkit.NewTranscript(), make(chan struct{})
	go func() {
		defer close(ended)
		_, _ = io.Copy(out, screen)
	}()
	t.Cleanup(func() {
		_ = screen.Close()
		<-ended
		if t.Failed() {
			t.Logf("the screen shows: %s", out.String())
		}
	})
	return out
}

// TestPluginCommand has the exit status of a command on the machine reach whoever called.
func TestPluginCommand(t *testing.T) {
	l := laptopLab(t)
	cmd := awsCLI(t, l, startSession("AWS-StartNonInteractiveCommand", `command=["echo one two"]`)...)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "one two\n") || strings.Contains(string(out), "outdated") { // as the AWS command line calls versions it does not like
		t.Errorf("%v\n%s", err, out)
	}
	nothingOpen(t, l)
}

// TestPluginSilentCommand: a command that ends without having said anything is a session that went well.
func TestPluginSilentCommand(t *testing.T) {
	l := laptopLab(t)
	out, err := awsCLI(t, l, startSession("AWS-StartInteractiveCommand", `command=["true"]`)...).CombinedOutput()
	if err != nil || !strings.Contains(string(out), "Starting session with") || !strings.Contains(string(out), "Exiting session with") {
		t.Errorf("%v\n%s", err, out)
	}
	nothingOpen(t, l)
}
