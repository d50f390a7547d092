package ssmproto

import (
	"errors"
	"net"
	"os"
	"syscall"
)

// gatherMark is the low-water mark while messages are let come together: less than the shortest receive window that Linux begins with, so that raising it does
// not enlarge the socket's buffer, and about what a drip brings in its longest wait: 33 KB at an agent's pace. A higher one woke nobody less often.
const gatherMark = 32 << 10

// mark is the low-water mark of a TCP socket (SO_RCVLOWAT of socket(7)). Below it the kernel reports nothing to epoll, while every segment otherwise wakes a
// thread of the runtime, whether or not somebody waits for it. The end of the connection is reported all the same.
//
// While it is raised, nobody may wait for the socket: read takes what is there. The zero value is the mark of a connection that has none.
type mark struct {
	raw    syscall.RawConn
	raised bool
}

// markOf gives the mark of conn. It is of use only where nothing above conn waits for input but through it.
func markOf(conn net.Conn) mark {
	socket, ok := conn.(*net.TCPConn)
	if !ok {
		return mark{}
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return mark{}
	}
	return mark{raw: raw}
}

// raise lets segments come without a word. It reports false where that cannot be.
func (m *mark) raise() bool {
	if m.raw != nil && !m.raised {
		m.raised = m.set(gatherMark)
	}
	return m.raised
}

// lower makes it an ordinary socket again: every byte is reported, those that are there already at once.
func (m *mark) lower() {
	if m.raised {
		m.raised = !m.set(1)
	}
}

func (m *mark) set(size int) bool {
	var failed error
	err := m.raw.Control(func(fd uintptr) {
		failed = syscall.SetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT, size)
	})
	return err == nil && failed == nil
}

// read gives what is there, without waiting: nothing if that is nothing, the end of the connection, or that it was closed here, which the connection's own Read
// tells. An error of the network is told once only, and so is this one's.
func (m *mark) read(p []byte) (n int, err error) {
	var failed error
	outside := m.raw.Read(func(fd uintptr) bool {
		for {
			n, failed = syscall.Read(int(fd), p)
			if !errors.Is(failed, syscall.EINTR) {
				return true
			}
		}
	})
	switch {
	case outside != nil, errors.Is(failed, syscall.EAGAIN):
		return 0, nil //nolint:nilerr // closed, or past its deadline: Read says so
	case failed != nil:
		return 0, os.NewSyscallError("read", failed)
	}
	return n, nil
}
