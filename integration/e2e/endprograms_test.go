//go:build unix

package e2e

import (
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// program is a command of a laptop that holds a session.
type program struct {
	name  string
	cmd   func(t *testing.T, w *world) *exec.Cmd
	typed string // into it, to begin with
	up    string // what it says when the session carries something: a regular expression
	use   func(t *testing.T, up []string)
}

// ownPrograms is how many of programs are ours alone.
const ownPrograms = 4

var programs = []program{
	{name: "connect", cmd: func(_ *testing.T, w *world) *exec.Cmd {
		return w.laptop("connect", "--key", w.lab.UserKey("alice")+".pub", "ec2-user@"+lab.MainInstance+":22")
	}, up: "SSH-2.0-"},
	{name: "forward", cmd: func(_ *testing.T, w *world) *exec.Cmd {
		return w.laptop("forward", "-L", "0:localhost:22", lab.MainInstance)
	}, up: `(\S+) leads to`, use: connected},
	{name: "shell", cmd: func(_ *testing.T, w *world) *exec.Cmd {
		return w.laptop("shell", lab.MainInstance)
	}, typed: "echo re''ady; sleep 600\n", up: "ready"},
	{name: "exec", cmd: func(_ *testing.T, w *world) *exec.Cmd {
		return w.laptop("exec", "--terminal", lab.MainInstance, "--", "echo ready; sleep 600")
	}, up: "ready"},
	{name: "the AWS CLI with our plugin, ssh", cmd: func(t *testing.T, w *world) *exec.Cmd {
		return w.awsCLI(t, "AWS-StartSSHSession", "portNumber=22")
	}, up: "SSH-2.0-"},
	{name: "the AWS CLI with our plugin, a port", cmd: func(t *testing.T, w *world) *exec.Cmd {
		return w.awsCLI(t, "AWS-StartPortForwardingSession", "portNumber=22")
	}, up: `Port (\d+) opened`, use: connected},
	{name: "the AWS CLI with our plugin, a command", cmd: func(t *testing.T, w *world) *exec.Cmd {
		return w.awsCLI(t, "AWS-StartInteractiveCommand", `{"command":["echo ready; sleep 600"]}`)
	}, up: "ready"},
}

// programEnd is one way in which a program's session comes to its end.
type programEnd struct {
	name   string
	happen func(t *testing.T, w *world, cmd *exec.Cmd, id string)
}

var programEnds = []programEnd{
	{"interrupted", send(syscall.SIGINT)},
	{"asked to end", send(syscall.SIGTERM)},
	{"the terminal is closed", send(syscall.SIGHUP)},
	{"the service ends the session", func(t *testing.T, w *world, _ *exec.Cmd, id string) {
		if !w.lab.AWS.End(id, "maximum duration reached") {
			t.Error("there was no session to end")
		}
	}},
	{"the machine vanishes, and then it is asked to end", func(t *testing.T, w *world, cmd *exec.Cmd, id string) {
		w.faults(t, awsemu.Scope{Session: id}, awsemu.Faults{ToAgent: awsemu.Link{Stall: true}, ToClient: awsemu.Link{Stall: true}})
		send(syscall.SIGTERM)(t, w, cmd, id)
	}},
}

// TestNothingLeftOpenByPrograms counts the sessions that AWS still has open after each kind of end of each program that has one.
func TestNothingLeftOpenByPrograms(t *testing.T) {
	w := worldOf(t, "embedded")
	for _, program := range programs {
		t.Run(program.name, func(t *testing.T) {
			for _, how := range programEnds {
				t.Run(how.name, func(t *testing.T) {
					w.eventually(t, "no session is open before", func() bool { return w.openSessions() == 0 })
					run := w.start(t, program)
					w.eventually(t, "a session is open", func() bool { return w.openSessions() == 1 })
					how.happen(t, w, run.cmd, w.openSession())
					if how.name != "the service ends the session" || program.name != "forward" { // which listens on
						run.awaitEnd(t)
					}
					w.eventually(t, "no session is open", func() bool { return w.openSessions() == 0 })
				})
			}
		})
	}
}

// beginnings are moments before a session carries anything.
var beginnings = map[string]awsemu.Faults{
	"the answer of StartSession is on its way": {AnswerLatency: awsemu.Duration(2 * time.Second)},
	"the machine does not answer yet":          {ToAgent: awsemu.Link{Stall: true}, ToClient: awsemu.Link{Stall: true}},
}

// TestNothingLeftOpenByTheImpatient ends programs, and the clients of a gateway, while their session begins: AWS opens it before it answers.
func TestNothingLeftOpenByTheImpatient(t *testing.T) {
	w := worldOf(t, "embedded")
	all := append(slices.Clone(programs[:ownPrograms]), program{name: "the client of a gateway", cmd: func(_ *testing.T, w *world) *exec.Cmd {
		return w.command("ssh", target, "true")
	}})
	for when, faults := range beginnings {
		t.Run(when, func(t *testing.T) {
			w.faults(t, awsemu.Scope{}, faults)
			for _, program := range all {
				t.Run(program.name, func(t *testing.T) {
					w.eventually(t, "no session is open before", func() bool { return w.openSessions() == 0 })
					run := begin(t, program.cmd(t, w))
					w.eventually(t, "a session is open", func() bool { return w.openSessions() == 1 })
					send(syscall.SIGTERM)(t, w, run.cmd, "")
					run.awaitEnd(t)
					w.eventually(t, "no session is open", func() bool { return w.openSessions() == 0 })
				})
			}
		})
	}
}

// laptop is a command of ours with alice's credentials.
func (w *world) laptop(args ...string) *exec.Cmd {
	cmd := exec.Command(binary, args...)
	cmd.Env = append(os.Environ(), append(w.lab.ConnectEnviron("alice"), raceEnviron)...)
	return cmd
}

// awsCLI is AWS's own command line, with this program in place of its plugin.
func (w *world) awsCLI(t *testing.T, document, parameters string) *exec.Cmd {
	t.Helper()
	cli, err := exec.LookPath("aws")
	if err != nil {
		t.Skip("aws is not here: run make tools")
	}
	dir := t.TempDir()
	if err := os.Symlink(binary, filepath.Join(dir, "session-manager-plugin")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(cli, "ssm", "start-session", "--target", lab.MainInstance, "--document-name", document, "--parameters", parameters)
	// What is empty is missing to us and something to the AWS command line.
	cmd.Env = append(slices.DeleteFunc(append(os.Environ(), w.lab.ConnectEnviron("alice")...), func(entry string) bool { return strings.HasSuffix(entry, "=") }),
		"PATH="+dir+string(os.PathListSeparator)+os.Getenv("PATH"), raceEnviron)
	return cmd
}

// running is a program that runs.
type running struct {
	cmd   *exec.Cmd
	stdin io.WriteCloser
	ended chan error
	said  *logBuffer
}

// start runs a program until its session carries something.
func (w *world) start(t *testing.T, p program) *running {
	t.Helper()
	r := begin(t, p.cmd(t, w))
	_, _ = io.WriteString(r.stdin, p.typed)
	up := regexp.MustCompile(p.up)
	w.eventually(t, "the session is up", func() bool { return up.MatchString(r.said.String()) })
	if p.use != nil {
		p.use(t, up.FindStringSubmatch(r.said.String()))
	}
	return r
}

// begin runs a command in a process group of its own, as from a shell.
func begin(t *testing.T, cmd *exec.Cmd) *running {
	t.Helper()
	r := &running{cmd: cmd, ended: make(chan error, 1), said: &logBuffer{}}
	var err error
	if r.stdin, err = r.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	r.cmd.Stdout, r.cmd.Stderr = r.said, r.said
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { r.ended <- r.cmd.Wait() }()
	t.Cleanup(func() {
		_ = syscall.Kill(-r.cmd.Process.Pid, syscall.SIGKILL)
		_ = r.stdin.Close()
	})
	return r
}

// awaitEnd waits for the program, and what it has started, to end by itself.
func (r *running) awaitEnd(t *testing.T) {
	t.Helper()
	select {
	case <-r.ended:
	case <-time.After(patience):
		t.Errorf("it does not end; it said %s", r.said)
	}
}

// connected opens a connection to the port that a program listens on, and leaves it open.
func connected(t *testing.T, up []string) {
	t.Helper()
	_ = throughTo(t, up[1])
}

// throughTo connects to sshd through an address or a port of ours, and gives the connection when sshd has greeted; reads from it wait within our patience.
func throughTo(t *testing.T, address string) net.Conn {
	t.Helper()
	if !strings.Contains(address, ":") {
		address = "127.0.0.1:" + address
	}
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	_ = conn.SetReadDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(conn, make([]byte, len("SSH-2.0-"))); err != nil {
		t.Errorf("nothing comes out of %s: %v", address, err)
	}
	return conn
}

func send(which syscall.Signal) func(t *testing.T, w *world, cmd *exec.Cmd, id string) {
	return func(t *testing.T, _ *world, cmd *exec.Cmd, _ string) {
		t.Helper()
		if err := syscall.Kill(-cmd.Process.Pid, which); err != nil {
			t.Error(err)
		}
	}
}

// openSession is the id of one that is open.
func (w *world) openSession() (id string) {
	for _, session := range w.lab.AWS.Sessions() {
		if !session.Over() {
			id = session.ID
		}
	}
	return id
}
