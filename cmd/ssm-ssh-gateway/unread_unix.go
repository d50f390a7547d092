//go:build unix

package main

import (
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// unreadCheck is how long one look at an output may take: the thread that looks is not free for anything else.
const unreadCheck = 500 * time.Millisecond

// awaitUnread waits until nobody can read any more what is written to out, and reports that; done ends it. It knows of pipes and sockets only, which is what an ssh
// gives its ProxyCommand.
func awaitUnread(out io.Writer, done <-chan struct{}) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	for {
		select {
		case <-done:
			return false
		default:
		}
		polled := []unix.PollFd{{Fd: int32(file.Fd())}}
		n, err := unix.Poll(polled, int(unreadCheck.Milliseconds()))
		switch {
		case err != nil && err != unix.EINTR:
			return false
		case n > 0:
			return polled[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0
		}
	}
}
