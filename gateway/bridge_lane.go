package gateway

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
)

// lane is one upstream connection to the machine.
type lane struct {
	leg
	heard atomic.Uint64 // counts what the machine sent: its sign of life
	gone  chan struct{} // closed when the connection has ended
	err   error         // why; valid once gone is closed
}

// laneSet holds the upstream connections of one bridge. Today there is at most one.
type laneSet struct {
	once  sync.Once
	ready chan struct{} // closed when the attempt to connect is over
	only  *lane         // valid once ready is closed; nil if err is not
	err   error

	mu     sync.Mutex
	closed bool
}

// laneFor decides which upstream connection serves a new channel of this type, or a request to listen ("tcpip-forward", …). It connects at the first
// need and waits for that. With several lanes this is the place to choose among them.
func (b *bridge) laneFor(string) (*lane, error) {
	b.lanes.once.Do(func() { b.spawn(b.connectLane) })
	select {
	case <-b.lanes.ready:
		return b.lanes.only, b.lanes.err
	case <-b.ctx.Done():
		return nil, context.Cause(b.ctx)
	}
}

func (b *bridge) connectLane() {
	defer close(b.lanes.ready)
	b.lanes.err = errPanic // stands if up does not come back
	to, err := b.up(b.ctx)
	b.lanes.err = err
	if err != nil {
		return
	}
	l := &lane{leg: to, gone: make(chan struct{})}
	// Its streams are served whatever happens: an unserved stream blocks the library's read loop, which then never ends.
	b.spawn(func() { b.dispatch(l.leg, fromTarget, l, b.globalFromTarget) })
	b.spawn(func() {
		l.err = l.conn.Wait()
		close(l.gone)
		b.end(fmt.Errorf("%w: %w", errTargetLeft, l.err))
	})
	b.spawn(func() { b.keepAlive(l.conn, &l.heard, errTargetMute) })
	b.lanes.adopt(l)
}

// adopt keeps l, unless the bridge is over.
func (s *laneSet) adopt(l *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.only = l
	if s.closed {
		_ = l.conn.Close()
	}
}

// close ends every lane, now or as soon as it is there.
func (s *laneSet) close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.only != nil {
		_ = s.only.conn.Close()
	}
}
