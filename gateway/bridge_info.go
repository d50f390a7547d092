package gateway

import (
	"net"
	"strconv"
	"sync/atomic"
	"time"
)

// What observer.channelRequest finds behind the name of a request that was not passed on.
const (
	refusedSuffix  = "-refused"  // the gate said no
	replacedSuffix = "-replaced" // a forced command was run instead, and is told next
)

// channelInfo is what audit and metrics may know of one channel.
type channelInfo struct {
	id         uint64 // counts from 1 within the connection
	kind       string // session, direct-tcpip, …
	fromTarget bool   // the machine opened it, not the client
	host       string // destination of a forward, or the address listened on; a path for unix sockets; empty for sessions
	port       int    // 0 for sessions and unix sockets
	origin     string // host:port the forwarded connection came from, as the opener claims it; may be empty
	opened     time.Time

	in  atomic.Int64 // bytes from the client to the machine
	out atomic.Int64 // bytes from the machine to the client, stdout and stderr

	// Set before channelClosed is called, not to be read earlier.
	closed     time.Time
	exitStatus *uint32 // nil when none was sent
	exitSignal string  // TERM, KILL, …; empty when none
	cause      error   // why it ended early; nil when it ended by itself
}

// destination is host:port, a path, or empty.
func (c *channelInfo) destination() string {
	if c.port == 0 {
		return c.host
	}
	return net.JoinHostPort(c.host, strconv.Itoa(c.port))
}
