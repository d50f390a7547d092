package gateway

import (
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

func TestLittleWaitsInTheKernel(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	conn, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	limitUnsent(conn)
	raw, err := conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var limit int
	var getErr error
	err = raw.Control(func(fd uintptr) {
		limit, getErr = unix.GetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT)
	})
	if err != nil || getErr != nil {
		t.Fatal(err, getErr)
	}
	if limit != unsentLimit {
		t.Errorf("the kernel takes %d bytes that it cannot send yet", limit)
	}
}
