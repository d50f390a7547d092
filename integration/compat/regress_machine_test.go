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

const (
	regressTarget = lab.TwinInstance
	firstUserID   = 60000 // of osUser on the machine (package instance)
	keysCommand   = "/mnt/keys.sh"
	sftpServer    = "/usr/lib/openssh/sftp-server"
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
	listener    net.Listener
	wait        sync.WaitGroup
	connections atomic.Int64
	made        *scriptRun // the last one, which has keys of every type

	mu  sync.Mutex
	now *scriptRun
}

func startRegressMachine(t *testing.T, w *world) *regressMachine {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &regressMachine{world: w, dir: filepath.Join(w.dir, "regress"), keys: filepath.Join(w.dir, "regress-keys.sh"), listener: listener}
	script, err := os.ReadFile(filepath.Join(w.dir, "machine", "keys.sh"))
	if err != nil {
		t.Fatal(err)
	}
	script = []byte(strings.ReplaceAll(string(script), machine, regressTarget))
	if err := errors.Join(os.Mkdir(m.dir, 0o755), os.WriteFile(m.keys, script, 0o644)); err != nil { //nolint:gosec // the machine's user passes through
		t.Fatal(err)
	}
	m.wait.Go(m.accept)
	t.Cleanup(func() { _ = listener.Close(); m.wait.Wait() })
	var fast agent.Config
	fast.Quirks.Fast = true
	if err := w.lab.Attach(context.Background(), regressTarget, listener.Addr().String(), fast); err != nil {
		t.Fatal(err)
	}
	return m
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

func (m *regressMachine) accept() {
	for {
		conn, err := m.listener.Accept()
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
				m.serve(conn.(*net.TCPConn), now)
			}
		})
	}
}

// serve gives a connection to the script's sshd: the one that listens, if the script has started one, else one for this connection alone, as the
// script's own ProxyCommand would.
func (m *regressMachine) serve(conn *net.TCPConn, o *scriptRun) {
	if _, err := os.Stat(o.path("pidfile")); err == nil {
		m.relay(conn, o.port)
		return
	}
	socket, err := conn.File()
	if err != nil {
		return
	}
	cmd := m.inside(o.dir, "sh", o.path("sshd-log-wrapper.sh"), o.path("sshd.log"), o.path("through/sshd"), "-i", "-f", o.path("sshd_proxy"))
	cmd.Stdin, cmd.Stdout = socket, socket
	cmd.Env = o.environ()
	err = cmd.Start()
	_ = socket.Close()
	_ = conn.Close() // sshd has it now
	if err == nil {
		_ = cmd.Wait()
	}
}

func (m *regressMachine) relay(conn *net.TCPConn, port int) {
	far, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return
	}
	defer func() { _ = far.Close() }()
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = io.Copy(far, conn)
		_ = far.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(conn, far)
	_ = conn.Close()
	<-done
}
