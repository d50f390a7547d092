package instance

import (
	"errors"
	"os"
	"os/exec"
	"syscall"
)

const ptySupported = false // Windows has no pty that a process could be started on like this

var errUnsupported = errors.New("not supported on Windows")

func loginShell() string { return os.Getenv("COMSPEC") }

func shellCommand(command string) *exec.Cmd {
	if command == "" {
		return exec.Command(loginShell())
	}
	return exec.Command(loginShell(), "/c", command)
}

func systemEnv() []string { return os.Environ() }

func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{CreationFlags: syscall.CREATE_NEW_PROCESS_GROUP}
}

func startOnPTY(*exec.Cmd, *ptyRequest) (*program, error) { return nil, errUnsupported }

func (p *program) resize(windowChange) error { return errUnsupported }

func (p *program) signal(string) error { return errUnsupported }

func (p *program) hangUp() { p.kill() }

func (p *program) kill() {
	_ = p.toGroup(func(int) error { return p.cmd.Process.Kill() })
}

func exitOf(state *os.ProcessState) exit { return exit{code: state.ExitCode()} }
