package e2e

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// end is one way in which a session that AWS has opened comes to its end.
type end struct {
	name   string
	args   []string                                               // of ssh; nil for one whose command runs until end
	happen func(t *testing.T, w *world, ssh *exec.Cmd, id string) // once the session is up; nil where it ends by itself
}

// ends are those that a client, the machine, IAM and AWS can bring about.
var ends = []end{
	{name: "the command ends", args: []string{target, "exit 3"}},
	{name: "IAM refuses the key after the session has begun", args: []string{"root@" + lab.MainInstance, "true"}},
	{name: "nothing listens on the machine", args: []string{"ec2-user@" + lab.NoSSHDInstance, "true"}},
	{name: "a port on which nobody listens", args: []string{"-W", lab.MainInstance + ":1", "gateway"}},
	{name: "the client is killed", happen: killed},
	{name: "the direct client is killed", args: []string{target + "@gateway", "sleep 600"}, happen: killed},
	{name: "the service ends the session", happen: func(t *testing.T, w *world, _ *exec.Cmd, id string) {
		if !w.lab.AWS.End(id, "maximum duration reached") {
			t.Error("there was no session to end")
		}
	}},
	{name: "a lost connection may not be resumed", happen: func(t *testing.T, w *world, _ *exec.Cmd, id string) {
		w.faults(t, awsemu.Scope{}, awsemu.Faults{Deny: map[string]string{"ssm:ResumeSession": "because the person has left"}})
		if err := w.lab.AWS.Bye(id); err != nil {
			t.Error(err)
		}
	}},
	{name: "the machine vanishes, and then the client", happen: func(t *testing.T, w *world, ssh *exec.Cmd, id string) {
		w.faults(t, awsemu.Scope{Session: id}, awsemu.Faults{ToAgent: awsemu.Link{Stall: true}, ToClient: awsemu.Link{Stall: true}})
		killed(t, w, ssh, id)
	}},
}

func killed(t *testing.T, _ *world, ssh *exec.Cmd, _ string) {
	if err := ssh.Process.Kill(); err != nil {
		t.Error(err)
	}
}

// TestNothingLeftOpen counts the sessions that AWS still has open after each kind of end.
func TestNothingLeftOpen(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		for _, how := range ends {
			t.Run(how.name, func(t *testing.T) {
				w.bringToEnd(t, how)
				w.eventually(t, "no session is open", func() bool { return w.openSessions() == 0 })
			})
		}
	})
}

func (w *world) bringToEnd(t *testing.T, how end) {
	t.Helper()
	w.eventually(t, "no session is open before", func() bool { return w.openSessions() == 0 })
	started := len(w.lab.AWS.Sessions())
	if how.happen == nil {
		got := w.ssh(t, nil, how.args...)
		if len(w.lab.AWS.Sessions()) == started {
			t.Errorf("no session had begun: %s", got)
		}
		return
	}
	ssh, id := w.begin(t, how.args)
	how.happen(t, w, ssh, id)
	_ = ssh.Wait()
}

// begin runs ssh until its session is up, and gives the session's id.
func (w *world) begin(t *testing.T, args []string) (ssh *exec.Cmd, id string) {
	t.Helper()
	if args == nil {
		args = []string{target, "sleep 600"}
	}
	last := len(args) - 1
	ssh = w.command("ssh", append(args[:last:last], "echo ready; "+args[last])...)
	output := &logBuffer{}
	ssh.Stdout, ssh.Stderr = output, output
	if err := ssh.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ssh.Process.Kill() })
	w.eventually(t, "the command runs", func() bool { return strings.Contains(output.String(), "ready\n") })
	for _, session := range w.lab.AWS.Sessions() {
		if !session.Over() {
			id = session.ID
		}
	}
	return ssh, id
}

// faults makes things go wrong until the test ends.
func (w *world) faults(t *testing.T, scope awsemu.Scope, faults awsemu.Faults) {
	t.Helper()
	if err := w.lab.AWS.SetFaults(scope, faults); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.lab.AWS.SetFaults(scope, awsemu.Faults{}); err != nil {
			t.Error(err)
		}
	})
}

// stops are ways for the gateway itself to end while somebody is on a machine. Sessions that end by themselves are TestStopLetsSessionsEnd.
var stops = []struct {
	name, kind string
	signals    []os.Signal
}{
	{"a second signal cuts what would be drained", "embedded", []os.Signal{syscall.SIGTERM, syscall.SIGTERM}},
	{"nothing ends until the limit of draining", "embedded, brief drain", []os.Signal{os.Interrupt}},
}

// TestNothingLeftOpenByAStop counts after the gateway's process has ended.
func TestNothingLeftOpenByAStop(t *testing.T) {
	for _, how := range stops {
		t.Run(how.name, func(t *testing.T) {
			w, err := startWorld(how.kind)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = w.lab.Close() }()
			defer func() { _ = w.gateway.Process.Kill() }()
			ssh, _ := w.begin(t, nil)
			for _, signal := range how.signals {
				if err := w.gateway.Process.Signal(signal); err != nil {
					t.Fatal(err)
				}
				w.eventually(t, "the gateway begins to stop", func() bool { return strings.Contains(w.log.String(), `"msg":"stopping"`) })
			}
			if err := w.gateway.Wait(); err != nil {
				t.Errorf("the gateway: %v\n%s", err, w.log)
			}
			_ = ssh.Wait()
			// The agent may still have to say so of one that it has agreed to end. Nobody else would end one before it has been idle for 20 minutes.
			w.eventually(t, "no session is open after the gateway has ended", func() bool { return w.openSessions() == 0 })
		})
	}
}

// TestNothingLeftOpenByConnect is the same for the way in without a gateway: ssh is killed, and its ProxyCommand has nobody to write to any more.
func TestNothingLeftOpenByConnect(t *testing.T) {
	eachInstance(t, func(t *testing.T, w *world) {
		direct := []string{"-o", "ProxyJump=none", "-o", w.proxyCommand("alice"), "-o", "UserKnownHostsFile=" + w.lab.InstanceKnownHosts, target}
		w.eventually(t, "no session is open before", func() bool { return w.openSessions() == 0 })
		if got := w.ssh(t, nil, append(direct, "exit 3")...); got.code != 3 {
			t.Errorf("%s", got)
		}
		w.eventually(t, "no session is open", func() bool { return w.openSessions() == 0 })
		ssh, _ := w.begin(t, append(direct, "while echo more; do sleep 0.2; done"))
		killed(t, w, ssh, "")
		_ = ssh.Wait()
		w.eventually(t, "no session is open after the kill", func() bool { return w.openSessions() == 0 })
	})
}
