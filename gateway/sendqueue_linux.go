package gateway

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// unsentLimit is how much the kernel takes of what it cannot send yet. What it has taken goes out in order, and stands in front of every keystroke that is echoed
// later; what it has not is still with the channels, which take turns packet by packet. Without a limit it takes up to 4 MiB (net.ipv4.tcp_wmem), which
// on a line of 5 MB/s is most of a second. It is enough for the time until the gateway runs again, since what is under way does not count.
const unsentLimit = 64 << 10

// limitUnsent keeps the queue of a client's connection short (TCP_NOTSENT_LOWAT of tcp(7)). A connection of another kind, or a kernel that does not know the
// option, is as usable without.
func limitUnsent(conn net.Conn) {
	socket, ok := conn.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := socket.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, unsentLimit)
	})
}
