package bridge

import (
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// bind is what a remote forward listens on: an address and port as the client wrote them, or a path.
type bind struct {
	host   string
	port   uint32
	socket bool
}

// String is host:port or the path.
func (b bind) String() string {
	if b.socket {
		return b.host
	}
	return net.JoinHostPort(b.host, strconv.FormatUint(uint64(b.port), 10))
}

// remoteForward is a listener on the machine that the client asked for.
type remoteForward struct {
	bind
	via     *lane         // that was asked for it
	anyPort bool          // asked for port 0, and the port given is not known (yet)
	settled chan struct{} // closed when the client has the answer
}

// covers reports whether an open that names at may belong to f. sshd repeats the address it was asked for; others name the address they bound, so
// any two names for all addresses, and any two for the loopback, are one.
func (f *remoteForward) covers(at bind) bool {
	if f.socket != at.socket {
		return false
	}
	if f.socket {
		return f.host == at.host
	}
	return (f.anyPort || f.port == at.port) && addressClass(f.host) == addressClass(at.host)
}

// addressClass names an address for comparison (RFC 4254 §7.1 lists the special ones).
func addressClass(host string) string {
	switch host {
	case "", "*", "0.0.0.0", "::":
		return "*"
	case "localhost", "127.0.0.1", "::1":
		return "localhost"
	}
	return strings.ToLower(host)
}

// forwardTable knows the listeners of one client connection.
type forwardTable struct {
	limit int

	mu   sync.Mutex
	list []*remoteForward
}

// add records a forward before the machine is asked for it, because its first connection may overtake the machine's answer.
func (t *forwardTable) add(f *remoteForward) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.list) >= t.limit {
		return false
	}
	t.list = append(t.list, f)
	return true
}

func (t *forwardTable) remove(f *remoteForward) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.DeleteFunc(t.list, func(g *remoteForward) bool { return g == f })
}

// find gives the forward that a cancel names, or nil.
func (t *forwardTable) find(at bind) *remoteForward {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.list {
		if f.bind == at {
			return f
		}
	}
	return nil
}

// setPort records the port that the machine chose.
func (t *forwardTable) setPort(f *remoteForward, port uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.port, f.anyPort = port, false
}

// admits waits until the client has been told that the forward it asked for exists, because a client refuses connections for a port it does not know of
// yet; and refuses what no forward covers.
func (t *forwardTable) admits(ctx context.Context, at bind) error {
	for {
		settled, covered := t.cover(at)
		if !covered || settled == nil {
			return unlessAsked(covered)
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// cover reports whether a forward covers at and, if it is not settled yet, what to wait for.
func (t *forwardTable) cover(at bind) (settled <-chan struct{}, covered bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.list {
		switch {
		case !f.covers(at):
		case closedAlready(f.settled):
			return nil, true
		default:
			settled, covered = f.settled, true
		}
	}
	return settled, covered
}
