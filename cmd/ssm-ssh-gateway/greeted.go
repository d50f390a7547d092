package main

import (
	"errors"
	"net"
	"sync/atomic"
	"time"
)

// greetingLimit is how long a port whose server speaks first may be silent. The agent tells late or not at all that nobody listens there (SPEC.md §7.4).
const greetingLimit = 12 * time.Second

var errNoGreeting = errors.New("the port is silent")

// greeted is a session to the port of a server that speaks first: one that does not is closed, and its Read gives errNoGreeting.
type greeted struct {
	net.Conn
	limit  *time.Timer
	silent atomic.Bool
}

func awaitGreeting(session net.Conn) *greeted {
	g := &greeted{Conn: session}
	g.limit = time.AfterFunc(greetingLimit, func() {
		g.silent.Store(true)
		_ = closeNow(session)
	})
	return g
}

// Read implements net.Conn.
func (g *greeted) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	switch {
	case g.silent.Load():
		return 0, errNoGreeting
	case n > 0:
		g.limit.Stop()
	}
	return n, err
}

// Close ends the wait and the session.
func (g *greeted) Close() error {
	g.limit.Stop()
	return g.Conn.Close()
}

// closeNow ends a session without waiting for the other side to take what it will never take. AWS is still told.
func closeNow(session net.Conn) error {
	if atOnce, ok := session.(interface{ CloseNow() error }); ok {
		return atOnce.CloseNow()
	}
	return session.Close()
}
