package bridge

import (
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// KeepAliveRequest is OpenSSH's name for "are you there?". Any answer will do, and a failure is the usual one.
const KeepAliveRequest = "keepalive@openssh.com"

// keepAlive asks the peer of one leg for a sign of life now and then, and calls lost when none comes. It finds what TCP does not: a tunnel
// whose far side is gone, and a peer that stops in the middle of a key exchange, where writers would wait for ever.
func (b *bridge) keepAlive(conn ssh.Conn, heard *atomic.Uint64, lost func()) {
	pause := time.NewTimer(b.cfg.Limits.Keepalive)
	defer pause.Stop()
	for {
		select {
		case <-b.ctx.Done():
			return
		case <-pause.C:
		}
		answered := make(chan error, 1)
		b.spawn(func() {
			_, _, err := conn.SendRequest(KeepAliveRequest, true, nil)
			answered <- err
		})
		if !b.awaitLife(answered, heard, lost) {
			return
		}
		pause.Reset(b.cfg.Limits.Keepalive)
	}
}

// awaitLife waits for the answer. As long as other things arrive the answer may be late: it queues behind a bulk copy.
func (b *bridge) awaitLife(answered <-chan error, heard *atomic.Uint64, lost func()) bool {
	patience := time.NewTicker(b.cfg.Limits.KeepaliveTimeout)
	defer patience.Stop()
	before := heard.Load()
	for {
		select {
		case <-b.ctx.Done():
			return false
		case err := <-answered:
			return err == nil
		case <-patience.C:
			now := heard.Load()
			if now == before {
				lost()
				return false
			}
			before = now
		}
	}
}
