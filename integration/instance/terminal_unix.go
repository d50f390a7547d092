//go:build unix

package instance

import (
	"fmt"
	"os"

	"github.com/creack/pty"
	"golang.org/x/sys/unix"
)

// openTerminal opens a pty whose near end can be closed while it is read. The library leaves it in blocking mode, in which a read ends only when
// the last process has let go of the far end, and a background job may never do so.
func openTerminal() (near, far *os.File, err error) {
	blocking, far, err := pty.Open()
	if err != nil {
		return nil, nil, err
	}
	defer blocking.Close()
	fd, err := unix.FcntlInt(blocking.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		if err = unix.SetNonblock(fd, true); err == nil {
			return os.NewFile(uintptr(fd), blocking.Name()), far, nil
		}
		_ = unix.Close(fd)
	}
	_ = far.Close()
	return nil, nil, fmt.Errorf("open terminal: %w", err)
}

// setSize tells the terminal its size without taking the bare descriptor, which would put it back into blocking mode and race with Close.
func setSize(near *os.File, size *unix.Winsize) error {
	conn, err := near.SyscallConn()
	if err != nil {
		return err
	}
	var ioctlErr error
	if err := conn.Control(func(fd uintptr) { ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, size) }); err != nil {
		return err
	}
	return ioctlErr
}
