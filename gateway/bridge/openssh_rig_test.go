package bridge

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// openSSH is the system's ssh in front of a bridge and the system's sshd behind it.
type openSSH struct {
	dir    string
	config string // for ssh -F
	gate   *scriptedGate
	watch  *recorder
}

// newOpenSSH serves bridges on loopback until the test ends. Every upstream connection is an sshd of its own in inetd mode.
func newOpenSSH(t *testing.T) *openSSH {
	t.Helper()
	for _, program := range []string{"ssh", "sftp", "scp", "sshd"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("this test drives OpenSSH, and %v", err)
		}
	}
	o := &openSSH{dir: testkit.SocketDir(t), gate: &scriptedGate{}, watch: newRecorder()}
	o.config = filepath.Join(o.dir, "ssh_config")
	signer := o.sshdConfig(t)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	o.write(t, o.config, fmt.Sprintf(`Host machine
  HostName 127.0.0.1
  Port %d
  User %s
  StrictHostKeyChecking no
  UserKnownHostsFile /dev/null
  LogLevel ERROR
  ExitOnForwardFailure yes
`, listener.Addr().(*net.TCPAddr).Port, o.user(t)))

	ctx, cancel := context.WithCancel(t.Context())
	var bridges sync.WaitGroup
	bridges.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			bridges.Go(func() {
				cfg := Config{Grants: allGrants, Gate: o.gate, Watch: o.watch, Text: func(err error) string { return "gateway: " + err.Error() }}
				if l := serverLeg(t, conn); l.Conn != nil {
					_ = Run(ctx, l, func(context.Context) (*Link, error) { return o.sshd(t, signer) }, cfg)
				}
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		cancel()
		bridges.Wait()
	})
	return o
}

func (o *openSSH) write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func (o *openSSH) user(t *testing.T) string {
	t.Helper()
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	return me.Username
}

// sshdConfig writes what sshd needs and gives the key it lets in.
func (o *openSSH) sshdConfig(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(key, "")
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	if os.Getuid() == 0 {
		if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd's privilege separation directory
			t.Fatal(err)
		}
	}
	o.write(t, filepath.Join(o.dir, "host_key"), string(pem.EncodeToMemory(block)))
	o.write(t, filepath.Join(o.dir, "authorized_keys"), string(ssh.MarshalAuthorizedKey(signer.PublicKey())))
	o.write(t, filepath.Join(o.dir, "sshd_config"), fmt.Sprintf(`HostKey %[1]s/host_key
AuthorizedKeysFile %[1]s/authorized_keys
StrictModes no
UsePAM no
PidFile none
PermitRootLogin yes
PasswordAuthentication no
AllowAgentForwarding yes
StreamLocalBindUnlink yes
ClientAliveInterval 1
PrintMotd no
PrintLastLog no
Subsystem sftp internal-sftp
`, o.dir))
	return signer
}

// sshd starts one for one connection and logs in.
func (o *openSSH) sshd(t *testing.T, signer ssh.Signer) (*Link, error) {
	near, far := testkit.TCPPair(t)
	socket, err := far.(*net.TCPConn).File()
	if err != nil {
		return nil, err
	}
	_ = far.Close()
	path, err := exec.LookPath("sshd") // sshd insists on an absolute path, to run itself again
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(path, "-i", "-f", filepath.Join(o.dir, "sshd_config"))
	cmd.Stdin, cmd.Stdout = socket, socket
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	_ = socket.Close()
	t.Cleanup(func() { _ = cmd.Wait() })
	conn, chans, reqs, err := ssh.NewClientConn(near, "machine", &ssh.ClientConfig{
		User: o.user(t), Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: ssh.InsecureIgnoreHostKey(),
	})
	if err != nil {
		return nil, err
	}
	return NewLink(Leg{conn, chans, reqs}, asItIs), nil
}

// command is a program of the OpenSSH family with the test's configuration.
func (o *openSSH) command(t *testing.T, program string, args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(t.Context(), 2*testkit.Patience)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, program, append([]string{"-F", o.config}, args...)...)
}

// output runs ssh machine … and gives stdout; it fails the test unless the exit code is 0.
func (o *openSSH) output(t *testing.T, args ...string) string {
	t.Helper()
	var errs bytes.Buffer
	cmd := o.command(t, "ssh", args...)
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("ssh %s: %v: %s", strings.Join(args, " "), err, errs.String())
	}
	return string(out)
}

// master runs a ControlMaster that is up when this returns, and gives the option that uses it.
func (o *openSSH) master(t *testing.T, args ...string) string {
	t.Helper()
	control := "ControlPath=" + filepath.Join(o.dir, "cm")
	o.output(t, append([]string{"-o", control, "-o", "ControlMaster=yes", "-o", "ControlPersist=yes", "-N", "-f"}, append(args, "machine")...)...)
	t.Cleanup(func() { _ = exec.Command("ssh", "-F", o.config, "-o", control, "-O", "exit", "machine").Run() })
	return control
}
