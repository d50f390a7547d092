//go:build unix

package agent

import (
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// ptyTerminal is the near end of a pty. It can be closed while it is read: the library leaves it in blocking mode, in which a read ends only when
// the last process has let go of the far end, and a background job may never do so.
type ptyTerminal struct{ *os.File }

func startOnTerminal(cmd *exec.Cmd) (terminal, error) {
	blocking, far, err := pty.Open()
	if err != nil {
		return nil, err
	}
	defer blocking.Close()
	defer far.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("open terminal: %w", err)
	}
	near := os.NewFile(uintptr(fd), blocking.Name())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, far
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		_ = near.Close()
		return nil, err
	}
	return ptyTerminal{near}, nil
}

// resize does not take the bare descriptor, which would put the terminal back into blocking mode and race with Close.
func (t ptyTerminal) resize(cols, rows uint32) error {
	conn, err := t.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	err = conn.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Col: uint16(cols), Row: uint16(rows)})
	})
	if err != nil {
		return err
	}
	return ioctlErr
}
