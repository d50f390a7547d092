package compat

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// The machine has two names, since the scripts have two kinds of connection: to an sshd that their ProxyCommand starts (ssh_proxy), and to one that they
// have started before and that listens (ssh_config).
const (
	inetdTarget  = lab.TwinInstance
	daemonTarget = lab.OtherTwinInstance
)

const (
	firstUserID = 60000 // of osUser on the machine (package instance)
	keysCommand = "/mnt/keys.sh"
	sftpServer  = "/usr/lib/openssh/sftp-server"
)

// enterMachine becomes the machine's user, in a mount namespace with the machine's accounts: $1 is the machine's directory, $2 the keys command, the rest
// the program. sshd runs a keys command only from where nobody but root can write.
const enterMachine = `set -eu
mount --bind "$1/passwd" /etc/passwd
mount --bind "$1/group" /etc/group
mount --bind "$1/home" /home
mount -t tmpfs -o mode=755 tmpfs /mnt
cp "$2" ` + keysCommand + ` && chmod 755 ` + keysCommand + `
shift 2
exec setpriv --reuid 60000 --regid 60000 --clear-groups "$@"`

// regressMachine is the machine on which OpenSSH's scripts run, and at whose port 22 their sshd answers, as the script of the moment has configured it.
type regressMachine struct {
	world       *world
	dir, keys   string
	wait        sync.WaitGroup
	connections atomic.Int64
	made        *scriptRun // the last one, which has keys of every type

	mu  sync.Mutex
	now *scriptRun
}

func startRegressMachine(t *testing.T, w *world) *regressMachine {
	t.Helper()
	m := &regressMachine{world: w, dir: filepath.Join(w.dir, "regress"), keys: filepath.Join(w.dir, "regress-keys.sh")}
	script, err := os.ReadFile(filepath.Join(w.dir, "machine", "keys.sh"))
	if err != nil {
		t.Fatal(err)
	}
	script = []byte(strings.ReplaceAll(string(script), machine, inetdTarget+","+daemonTarget))
	// The modes said again are for who runs the tests with a umask of 077.
	if err := errors.Join(os.Mkdir(m.dir, 0o755), os.Chmod(m.dir, 0o755), os.WriteFile(m.keys, script, 0o644), os.Chmod(m.keys, 0o644)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(m.wait.Wait) // runs last, when both listeners are closed
	m.listen(t, inetdTarget, m.inetd)
	m.listen(t, daemonTarget, m.relay)
	return m
}

// listen puts a login service behind a name of the machine.
func (m *regressMachine) listen(t *testing.T, name string, serve func(net.Conn, *scriptRun)) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m.wait.Go(func() { m.accept(listener, serve) })
	t.Cleanup(func() { _ = listener.Close() })
	var fast agent.Config
	fast.Quirks.Fast = true
	if err := m.world.lab.Attach(context.Background(), name, listener.Addr().String(), fast); err != nil {
		t.Fatal(err)
	}
}

// use makes the sshd of this script the one that answers.
func (m *regressMachine) use(o *scriptRun) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.now = o
}

// inside is a program run as the machine's user.
func (m *regressMachine) inside(dir string, program ...string) *exec.Cmd {
	args := append([]string{"--mount", "sh", "-c", enterMachine, "enter", filepath.Join(m.world.dir, "machine"), m.keys}, program...)
	cmd := exec.Command("unshare", args...)
	cmd.Dir = dir
	return cmd
}

func (m *regressMachine) accept(listener net.Listener, serve func(net.Conn, *scriptRun)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		m.connections.Add(1)
		m.wait.Go(func() {
			defer func() { _ = conn.Close() }()
			m.mu.Lock()
			now := m.now
			m.mu.Unlock()
			if now != nil {
				serve(conn, now)
			}
		})
	}
}

// inetd runs the script's sshd for one connection, as the script's own ProxyCommand would: on pipes, so that sshd sees no address here either.
func (m *regressMachine) inetd(conn net.Conn, o *scriptRun) {
	cmd := m.inside(o.dir, "sh", o.path("sshd-log-wrapper.sh"), o.path("sshd.log"), o.path("through/sshd"), "-i", "-f", o.path("sshd_proxy"))
	cmd.Env = o.environ()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return
	}
	if cmd.Start() == nil {
		relay(conn, conn, stdin, stdout)
		_ = cmd.Wait()
	}
}

// relay leads to the sshd that the script has started.
func (m *regressMachine) relay(conn net.Conn, o *scriptRun) {
	far, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(o.port)))
	if err != nil {
		return
	}
	relay(conn, conn, far, far)
}

// relay carries bytes until sshd ends, or the connection does.
func relay(conn net.Conn, fromGateway io.Reader, toSSHD io.WriteCloser, fromSSHD io.Reader) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(toSSHD, fromGateway)
		_ = toSSHD.Close()
	}()
	_, _ = io.Copy(conn, fromSSHD)
	_ = conn.Close()
	<-done
}
