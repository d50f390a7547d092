package main

import (
	"os"

	"golang.org/x/sys/unix"
)

// limitPipe makes a pipe hold no more than about size bytes, 64 KiB otherwise: fcntl(2), F_SETPIPE_SZ, which rounds up to pages. What is no pipe, or holds more
// already, stays as it is.
func limitPipe(file *os.File, size int) {
	raw, err := file.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, size) })
}
