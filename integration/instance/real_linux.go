package instance

import (
	"bufio"
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/freeport"
)

const (
	startLimit = time.Minute // until sshd says that it listens; it takes well under a second where there is nothing else to do
	portTries  = 5           // another process may take the free port before sshd does

	firstUserID = 60000 // above what distributions give to people and to services
)

// mountScript arranges the machine's files inside its namespaces and becomes sshd.
//
//go:embed mount.sh
var mountScript string

// keysScript is sshd's AuthorizedKeysCommand.
//
//go:embed keys.sh
var keysScript []byte

// startReal runs the system's sshd in mount and process namespaces of its own: it sees copies of passwd, shadow and group with the OS users added,
// and when it dies, whatever it started dies with it, by the kernel's hand.
func startReal(cfg Config, keys []ssh.Signer) (string, func() error, error) {
	if err := RealAvailable(); err != nil {
		return "", nil, err
	}
	sshd, err := findSSHD()
	if err != nil {
		return "", nil, err
	}
	if err := writeMachine(&cfg); err != nil {
		return "", nil, err
	}
	for try := 1; ; try++ {
		addr, err := freeport.Address()
		if err != nil {
			return "", nil, err
		}
		if err := writeSSHDConfig(&cfg, addr); err != nil {
			return "", nil, err
		}
		machine := &sshdProcess{log: cfg.Logger.With("instance", cfg.ID), listening: make(chan struct{}), gone: make(chan struct{})}
		if err = machine.start(cfg.Dir, sshd); err == nil {
			return addr, machine.stop, nil
		}
		if !errors.Is(err, errPortTaken) || try == portTries {
			return "", nil, err
		}
	}
}

var (
	errPortTaken = errors.New("the port was taken by another process")
	errSSHDEnded = errors.New("sshd ended before it listened")
	errSSHDSlow  = errors.New("sshd did not start to listen in time")
)

// sshdProcess is sshd with everything below it.
type sshdProcess struct {
	log       interface{ Debug(string, ...any) }
	cmd       *exec.Cmd
	listening chan struct{}
	gone      chan struct{}
	waitErr   error // after gone

	mu    sync.Mutex
	early bytes.Buffer // what sshd said before it listened; bounded by sayLimit
	taken bool
	ready bool
}

const sayLimit = 4096

// start launches sshd and returns when it listens.
func (p *sshdProcess) start(dir, sshd string) error {
	stderr, writeEnd, err := os.Pipe()
	if err != nil {
		return err
	}
	p.cmd = exec.Command("/bin/sh", "-c", mountScript, "machine", dir, sshd)
	p.cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG=C.UTF-8"}
	p.cmd.Dir = "/"
	p.cmd.Stderr = writeEnd
	p.cmd.Stdout = writeEnd
	p.cmd.SysProcAttr = &syscall.SysProcAttr{
		// A process namespace ends with its first process, which is what reaches sessions that have left sshd's process group.
		Cloneflags:   syscall.CLONE_NEWPID,
		Unshareflags: syscall.CLONE_NEWNS, // the runtime makes the mounts private, so that none travels back
		Pdeathsig:    syscall.SIGKILL,
		Setsid:       true, // no controlling terminal: a Ctrl-C at the demo is the demo's affair
	}
	started := make(chan error, 1)
	go p.run(started, stderr, writeEnd)
	if err := <-started; err != nil {
		return fmt.Errorf("start sshd: %w", err)
	}
	limit := time.NewTimer(startLimit)
	defer limit.Stop()
	select {
	case <-p.listening:
		return nil
	case <-p.gone:
		return p.explain(errSSHDEnded)
	case <-limit.C:
		_ = p.stop()
		return p.explain(errSSHDSlow)
	}
}

// run owns the process. It stays on one thread because the parent-death signal follows the thread that started the child, not the process.
func (p *sshdProcess) run(started chan<- error, stderr, writeEnd *os.File) {
	defer close(p.gone)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	defer stderr.Close()
	err := p.cmd.Start()
	_ = writeEnd.Close()
	started <- err
	if err != nil {
		return
	}
	p.read(stderr) // until the last process of the namespace has closed it
	p.waitErr = p.cmd.Wait()
}

// read follows sshd's log.
func (p *sshdProcess) read(stderr io.Reader) {
	lines := bufio.NewScanner(stderr)
	for lines.Scan() {
		line := lines.Text()
		p.log.Debug("sshd", "line", line)
		p.mu.Lock()
		if !p.ready && p.early.Len()+len(line) < sayLimit {
			p.early.WriteString(line + "\n")
		}
		p.taken = p.taken || strings.Contains(line, "Address already in use")
		if !p.ready && strings.HasPrefix(line, "Server listening on ") {
			p.ready = true
			close(p.listening)
		}
		p.mu.Unlock()
	}
	_, _ = io.Copy(io.Discard, stderr) // a line beyond the scanner's limit must not block sshd
}

func (p *sshdProcess) explain(cause error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.taken {
		return errPortTaken
	}
	return fmt.Errorf("%w: %s", cause, strings.TrimSpace(p.early.String()))
}

func (p *sshdProcess) stop() error {
	err := p.cmd.Process.Kill()
	<-p.gone
	if err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end sshd: %w", err)
	}
	return nil
}

func findSSHD() (string, error) {
	for _, path := range []string{"/usr/sbin/sshd", "/usr/local/sbin/sshd", "/sbin/sshd"} {
		if info, err := os.Stat(path); err == nil && info.Mode()&0o111 != 0 {
			return path, nil
		}
	}
	return "", errors.New("no sshd is installed (Debian: openssh-server)")
}

// RealAvailable tells why a real instance cannot be started here; nil means that it can. It tries the namespaces instead of guessing,
// because containers often run as root without the right to mount.
func RealAvailable() error {
	if os.Geteuid() != 0 {
		return errors.New("a real sshd with users of its own needs root")
	}
	if _, err := findSSHD(); err != nil {
		return err
	}
	if _, err := os.Stat("/bin/bash"); err != nil {
		return errors.New("no /bin/bash for the login users")
	}
	return namespacesWork()
}

var namespacesWork = sync.OnceValue(func() error {
	probe := exec.Command("/bin/sh", "-c", "mount --bind /etc/passwd /etc/passwd && mount -t tmpfs tmpfs /run")
	probe.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID, Unshareflags: syscall.CLONE_NEWNS}
	if out, err := probe.CombinedOutput(); err != nil {
		return fmt.Errorf("no private mounts here: %w %s", err, bytes.TrimSpace(out))
	}
	return nil
})

// writeMachine puts the account files, homes and scripts of the machine into its directory.
func writeMachine(cfg *Config) error {
	accounts, err := readAccounts()
	if err != nil {
		return err
	}
	home := filepath.Join(cfg.Dir, "home")
	if err := makeDir(home); err != nil {
		return err
	}
	for n, user := range cfg.OSUsers {
		id := firstUserID + n
		accounts.add(user, id)
		dir := filepath.Join(home, user)
		if err := makeDir(dir); err != nil {
			return err
		}
		if err := os.Chown(dir, id, id); err != nil {
			return err
		}
	}
	script := bytes.ReplaceAll(keysScript, []byte("@INSTANCE@"), []byte(cfg.ID))
	script = bytes.ReplaceAll(script, []byte("@URL@"), []byte(cfg.KeysURL))
	if err := writeFile(filepath.Join(cfg.Dir, "keys.sh"), script, 0o644); err != nil {
		return err
	}
	return accounts.write(cfg.Dir)
}
