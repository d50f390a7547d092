//go:build unix

package instance

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

const ptySupported = true

var signals = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP, "ILL": syscall.SIGILL,
	"INT": syscall.SIGINT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE, "QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV,
	"TERM": syscall.SIGTERM, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
}

var (
	errUnknownSignal = errors.New("unknown signal")
	errNoTerminal    = errors.New("no terminal was asked for")
)

func loginShell() string {
	if _, err := os.Stat("/bin/bash"); err == nil {
		return "/bin/bash"
	}
	return "/bin/sh"
}

func shellCommand(command string) *exec.Cmd {
	shell := loginShell()
	cmd := exec.Command(shell)
	if command == "" {
		cmd.Args = []string{"-" + filepath.Base(shell)} // the hyphen makes it a login shell
	} else {
		cmd.Args = []string{filepath.Base(shell), "-c", command}
	}
	return cmd
}

func systemEnv() []string {
	return []string{"PATH=" + os.Getenv("PATH")}
}

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func startOnPTY(cmd *exec.Cmd, want *ptyRequest) (*program, error) {
	master, slave, err := openTerminal()
	if err != nil {
		return nil, err
	}
	defer slave.Close()
	p := &program{cmd: cmd, stdin: master, stdout: master, files: []*os.File{master}, pty: master}
	if err := p.resize(windowChange{want.Columns, want.Rows, want.Width, want.Height}); err != nil {
		_ = master.Close()
		return nil, err
	}
	cmd.Env = append(cmd.Env, "TERM="+want.Term, "SSH_TTY="+slave.Name())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		_ = master.Close()
		return nil, err
	}
	return p, nil
}

func (p *program) resize(size windowChange) error {
	if p.pty == nil {
		return errNoTerminal
	}
	return setSize(p.pty, &unix.Winsize{Col: uint16(size.Columns), Row: uint16(size.Rows), Xpixel: uint16(size.Width), Ypixel: uint16(size.Height)})
}

// signal reaches the program's whole group, as from a terminal.
func (p *program) signal(name string) error {
	number, ok := signals[name]
	if !ok {
		return errUnknownSignal
	}
	return p.toGroup(func(id int) error { return syscall.Kill(-id, number) })
}

func (p *program) hangUp() { _ = p.signal("HUP") }

func (p *program) kill() { _ = p.signal("KILL") }

func exitOf(state *os.ProcessState) exit {
	status, ok := state.Sys().(syscall.WaitStatus)
	if !ok || !status.Signaled() {
		return exit{code: state.ExitCode()}
	}
	for name, number := range signals {
		if number == status.Signal() {
			return exit{signal: name, core: status.CoreDump()}
		}
	}
	return exit{signal: "SIG@instance", core: status.CoreDump()} // a local name must contain '@', RFC 4254 §6.10
}
