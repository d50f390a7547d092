//go:build unix

package e2e

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// reboots are ways for a machine to go in the middle of sessions, with what a person reads at a terminal.
var reboots = []struct {
	name   string
	happen func(t *testing.T, w *world)
	said   string
}{
	{"it shuts down in good order", func(t *testing.T, w *world) {
		if err := w.lab.Main.Close(); err != nil { // sshd and its sessions; the agent is there to tell
			t.Error(err)
		}
	}, "closed"},
	{"its power fails", func(t *testing.T, w *world) {
		for _, session := range w.lab.AWS.Sessions() {
			if !session.Over() {
				w.stall(t, session.ID)
			}
		}
	}, "took too long"},
}

// stall lets nothing through a session any more, in either direction.
func (w *world) stall(t *testing.T, session string) {
	t.Helper()
	w.faults(t, awsemu.Scope{Session: session}, awsemu.Faults{ToAgent: awsemu.Link{Stall: true}, ToClient: awsemu.Link{Stall: true}})
}

// TestReboot has a machine go and come back while a terminal, a copy, a stream of output and a forward are open, through the gateway and without one. All end within the
// configured keepalives, which are far below our patience, nothing is left open at AWS, and the machine that comes back is the one that is known.
func TestReboot(t *testing.T) {
	for _, kind := range []string{"sshd, quick keepalives", "embedded, quick keepalives"} {
		t.Run(kind, func(t *testing.T) {
			for _, how := range reboots {
				t.Run(how.name, func(t *testing.T) {
					w := worldOf(t, kind)
					running := w.inTheMiddle(t)
					how.happen(t, w)
					if err := w.lab.PowerOff(lab.MainInstance); err != nil {
						t.Fatal(err)
					}
					running.awaitTheirEnd(t)
					if said := running.terminal.said.String(); !strings.Contains(said, how.said) {
						t.Errorf("at the terminal: %q; the gateway has logged:\n%s", said, w.log)
					}
					w.eventually(t, "no session is open", func() bool { return w.openSessions() == 0 })
					if got := w.ssh(t, nil, target, "true"); got.code != 255 || !strings.Contains(got.stderr, "is not connected") {
						t.Errorf("while it is away: %s", got)
					}
					if err := w.lab.PowerOn(t.Context(), lab.MainInstance); err != nil {
						t.Fatal(err)
					}
					w.reachableAsBefore(t)
				})
			}
		})
	}
}

// TestSilenceWithoutSSHD is a power failure under the gateway's shell where there is no sshd: no keepalive of SSH is there to notice it.
func TestSilenceWithoutSSHD(t *testing.T) {
	w := worldOf(t, "sshd, quick keepalives")
	shell := begin(t, w.command("ssh", "-tt", "ssm-user@"+lab.NoSSHDInstance))
	_, _ = io.WriteString(shell.stdin, "echo re''ady; sleep 600\n")
	w.eventually(t, "the shell has begun", func() bool { return strings.Contains(shell.said.String(), "ready") })
	for _, session := range w.lab.AWS.Sessions() {
		if session.Target == lab.NoSSHDInstance && !session.Over() {
			w.stall(t, session.ID)
		}
	}
	shell.awaitEnd(t)
	if said := shell.said.String(); !strings.Contains(said, "sign of life") {
		t.Errorf("at the terminal: %q", said)
	}
	w.eventually(t, "no session is open", func() bool { return w.openSessions() == 0 })
}

// midst is what people do while the machine goes.
type midst struct {
	terminal, forward *running
	all               map[string]*running
	conn              net.Conn // through the forward
	ported            net.Conn // through a forward without sshd, which goes on listening
}

// inTheMiddle starts all of it, and returns when each has carried something.
func (w *world) inTheMiddle(t *testing.T) *midst {
	t.Helper()
	local, big := testkit.FreeAddress(t), filepath.Join(t.TempDir(), "big")
	write(t, big, randomBytes(t, 64<<20))
	m := &midst{all: map[string]*running{}}
	ready := map[string]func() bool{}
	start := func(name string, cmd *exec.Cmd) *running {
		m.all[name] = begin(t, cmd)
		ready[name] = func() bool { return strings.Contains(m.all[name].said.String(), "ready") }
		return m.all[name]
	}
	m.terminal = start("a terminal", w.command("ssh", "-tt", target, "echo ready; sleep 600"))
	start("output", w.command("ssh", target, "echo ready; while echo more; do sleep 0.1; done"))
	start("without a gateway", w.command("ssh", append(w.withoutGateway(), "-o", "ServerAliveInterval=2", target, "echo ready; sleep 600")...))
	start("kept alive by connect", w.command("ssh", append(w.withoutGateway("--keepalive", "2s"), target, "echo ready; sleep 600")...))
	_, _ = io.WriteString(start("a shell without sshd", w.laptop("shell", "--keepalive", "2s", lab.MainInstance)).stdin, "echo re''ady; sleep 600\n")
	start("a copy", w.command("scp", "-q", big, target+":big"))
	ready["a copy"] = func() bool {
		info, err := os.Stat(filepath.Join(w.lab.Dir, "machines", lab.MainInstance, "home", "ec2-user", "big"))
		return err == nil && info.Size() > 0
	}
	m.forward = start("a forward", w.command("ssh", "-N", "-o", "ExitOnForwardFailure=yes", "-L", local+":"+listenEcho(t, "tcp", "127.0.0.1:0"), target))
	ready["a forward"] = func() bool { return m.converse(local) }
	w.start(t, program{cmd: func(_ *testing.T, w *world) *exec.Cmd {
		return w.laptop("forward", "--keepalive", "2s", "-L", "0:localhost:22", lab.MainInstance)
	}, up: `(\S+) leads to`, use: func(t *testing.T, up []string) { m.ported = throughTo(t, up[1]) }})
	for name, is := range ready {
		w.eventually(t, name+" has begun", is)
		if t.Failed() {
			t.Fatalf("it said %q", m.all[name].said)
		}
	}
	return m
}

// withoutGateway are the options of ssh for connect, which gets args.
func (w *world) withoutGateway(args ...string) []string {
	return []string{"-o", "ProxyJump=none", "-o", w.proxyCommand("alice", args...), "-o", "UserKnownHostsFile=" + w.lab.InstanceKnownHosts}
}

// converse opens the connection that is to be open when the machine goes.
func (m *midst) converse(address string) bool {
	conn, err := net.Dial("tcp", address)
	if err != nil {
		return false
	}
	m.conn = conn
	_ = conn.SetDeadline(time.Now().Add(patience))
	if _, err := conn.Write([]byte("x")); err != nil {
		return false
	}
	_, err = conn.Read(make([]byte, 1))
	return err == nil
}

// ownStatus are statuses beside 255. scp has one for a connection that is lost under it; and the end of a shell without sshd looks like any other where the agent
// gets to tell of it before it goes.
var ownStatus = map[string]int{"a copy": 1, "a shell without sshd": 0}

// awaitTheirEnd wants every client to fail, and the connection through the forward to end.
func (m *midst) awaitTheirEnd(t *testing.T) {
	t.Helper()
	defer func() { _ = m.conn.Close() }()
	for name, conn := range map[string]net.Conn{"of ssh": m.conn, "without it": m.ported} {
		_ = conn.SetReadDeadline(time.Now().Add(patience)) // from now on: what came before may have taken as long
		if _, err := io.Copy(io.Discard, conn); os.IsTimeout(err) {
			t.Errorf("the connection through the forward %s does not end", name)
		}
	}
	for name, r := range m.all {
		r.awaitEnd(t)
		code := r.cmd.ProcessState.ExitCode()
		if other, has := ownStatus[name]; code != 255 && (!has || code != other) {
			t.Errorf("%s ended with %d: %q", name, code, r.said)
		}
	}
}

// reachableAsBefore goes to the machine on each way, under strict checking of its host key.
func (w *world) reachableAsBefore(t *testing.T) {
	t.Helper()
	for way, args := range map[string][]string{"jump": {target}, "direct": {target + "@gateway"}, "connect": append(w.withoutGateway(), target)} {
		if got := w.ssh(t, nil, append(args, "echo back")...); got.stdout != "back\n" || got.code != 0 {
			t.Errorf("when it is back, by %s: %s", way, got)
		}
	}
	w.eventually(t, "no session is open in the end", func() bool { return w.openSessions() == 0 })
}
