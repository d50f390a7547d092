package bridge

import (
	"net"
	"strconv"
	"sync/atomic"
	"time"
)

// What Observer.ChannelRequest finds behind the name of a request that was not passed on.
const (
	RefusedSuffix  = "-refused"  // the gate said no
	ReplacedSuffix = "-replaced" // a forced command was run instead, and is told next
)

// ChannelInfo is what audit and metrics may know of one channel.
type ChannelInfo struct {
	ID         uint64 // counts from 1 within the connection
	Type       string // session, direct-tcpip, …
	FromTarget bool   // the machine opened it, not the client
	Host       string // destination of a forward, or the address listened on; a path for unix sockets; empty for sessions
	Port       int    // 0 for sessions and unix sockets
	Origin     string // host:port the forwarded connection came from, as the opener claims it; may be empty
	Opened     time.Time

	In  atomic.Int64 // bytes from the client to the machine
	Out atomic.Int64 // bytes from the machine to the client, stdout and stderr

	// Set before ChannelClosed is called, not to be read earlier.
	Closed     time.Time
	ExitStatus *uint32 // nil when none was sent
	ExitSignal string  // TERM, KILL, …; empty when none
	Cause      error   // why it ended early; nil when it ended by itself
}

// Destination is host:port, a path, or empty.
func (c *ChannelInfo) Destination() string {
	if c.Port == 0 {
		return c.Host
	}
	return net.JoinHostPort(c.Host, strconv.Itoa(c.Port))
}
