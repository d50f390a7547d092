package ssmproto

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// nap is a short wait that nothing but time ends. It has a timer of its own (timerfd_create(2)), which epoll reports like a socket. A timer of the runtime costs
// more in a program that is otherwise asleep: the runtime's monitor thread wakes with each of them, and then looks around every 20 µs for a while.
//
// The zero value is ready. It belongs to one goroutine, which closes it; after that it is ready again.
type nap struct {
	timer *os.File
	fd    int
}

// sleep waits for d. Where there are no file descriptors left, the runtime's timer has to do.
func (n *nap) sleep(d time.Duration) {
	if d > 0 && (n.timer == nil && !n.open() || !n.wait(d)) {
		time.Sleep(d)
	}
}

func (n *nap) open() bool {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		return false
	}
	n.timer, n.fd = os.NewFile(uintptr(fd), "timerfd"), fd
	return true
}

func (n *nap) wait(d time.Duration) bool {
	if unix.TimerfdSettime(n.fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(d.Nanoseconds())}, nil) != nil {
		return false
	}
	var expirations [8]byte
	_, err := n.timer.Read(expirations[:])
	return err == nil
}

// close gives the timer back.
func (n *nap) close() {
	if n.timer != nil {
		_ = n.timer.Close()
		n.timer = nil
	}
}
