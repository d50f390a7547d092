package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// How hard a session that has ended is opened again. A connection waits for it.
const (
	firstReopenPause = 500 * time.Millisecond
	lastReopenPause  = 15 * time.Second
	reopenFor        = 2 * time.Minute
)

// tunnel is the way to one destination: one multiplexed session for all its connections, opened again by the next connection when it has ended.
type tunnel struct {
	to    string
	start func(ctx context.Context) (ssmproto.Grant, error)
	alive keepAlive
	tell  func(format string, args ...any) // for the user

	mu       sync.Mutex // held while a session is opened: the others wait for it
	mux      *ssmproto.Mux
	watchers sync.WaitGroup
}

// dial opens a connection to the destination.
func (t *tunnel) dial(ctx context.Context) (net.Conn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mux != nil {
		conn, err := t.mux.Open(ctx)
		if err == nil || errors.Is(err, ssmproto.ErrTooManyStreams) || ctx.Err() != nil {
			return conn, err
		}
		t.drop(err)
	}
	session, err := t.reopen(ctx)
	if err != nil {
		return nil, err
	}
	if !session.Multiplexed() {
		return session, nil // the agent is too old (SPEC.md §5.4): every connection has a session of its own
	}
	if err := t.adopt(session); err != nil {
		return nil, err
	}
	return t.mux.Open(ctx)
}

// prove opens the session before the first connection, so that what is wrong is told at once.
func (t *tunnel) prove(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	session, err := t.open(ctx)
	if err != nil {
		return err
	}
	if !session.Multiplexed() {
		return session.Close()
	}
	return t.adopt(session)
}

// adopt makes a session the tunnel's, until it ends: one that has failed stays open at AWS until somebody terminates it, and the next connection may never come.
// The caller holds mu.
func (t *tunnel) adopt(session *ssmproto.Conn) error {
	mux, err := ssmproto.NewMux(session)
	if err != nil {
		return errors.Join(err, session.CloseNow())
	}
	t.mux = mux
	t.watchers.Go(func() {
		<-session.Done()
		t.mu.Lock()
		defer t.mu.Unlock()
		if t.mux == mux {
			t.drop(session.Err())
		}
	})
	return nil
}

// drop terminates a session that has ended. The caller holds mu.
func (t *tunnel) drop(reason error) {
	t.tell("the session to %s has ended (%s), the next connection opens another", t.to, inWords(reason))
	_ = t.mux.CloseNow()
	t.mux = nil
}

func (t *tunnel) open(ctx context.Context) (*ssmproto.Conn, error) {
	grant, err := t.start(ctx)
	if err != nil {
		return nil, err
	}
	return ssmproto.Dial(ctx, grant, t.alive.of(ssmproto.Options{}))
}

// reopen tries until it succeeds, until trying again cannot help, or for two minutes.
func (t *tunnel) reopen(ctx context.Context) (*ssmproto.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, reopenFor)
	defer cancel()
	for pause := firstReopenPause; ; pause = min(2*pause, lastReopenPause) {
		session, err := t.open(ctx)
		if err == nil || !mayPass(err) {
			return session, err
		}
		t.tell("no session to %s yet: %s", t.to, inWords(err))
		timer := time.NewTimer(pause/2 + rand.N(pause)) //nolint:gosec // spreads attempts, guards nothing
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return nil, err
		}
	}
}

// mayPass says whether a fault may be gone in a while: an agent that restarts, a network that is away, AWS that throttles.
func mayPass(err error) bool {
	var refusal *authz.Refusal
	if !errors.As(err, &refusal) {
		return true
	}
	switch refusal.Reason {
	case authz.ReasonTargetNotConnected, authz.ReasonThrottled, authz.ReasonTimeout, authz.ReasonCloud:
		return true
	}
	return false
}

// close ends the session politely.
func (t *tunnel) close() error {
	defer t.watchers.Wait()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.mux == nil {
		return nil
	}
	mux := t.mux
	t.mux = nil
	if err := mux.Close(); err != nil {
		return fmt.Errorf("closing the session to %s: %w", t.to, err)
	}
	return nil
}

// lingerAfterEnd is how long a connection without half-close waits for more of an answer after the end of its input.
const lingerAfterEnd = time.Minute

// lingering is the far side of such a connection, as it is read: it waits without limit until begin.
type lingering struct {
	net.Conn
	ended atomic.Bool
}

// begin says that there is no more input.
func (l *lingering) begin() {
	l.ended.Store(true)
	_ = l.SetReadDeadline(time.Now().Add(lingerAfterEnd)) // of the Read that waits now
}

// Read fails with os.ErrDeadlineExceeded when nothing comes for lingerAfterEnd after begin.
func (l *lingering) Read(p []byte) (int, error) {
	if l.ended.Load() {
		_ = l.SetReadDeadline(time.Now().Add(lingerAfterEnd))
	}
	return l.Conn.Read(p)
}

// join copies both ways until the far side has ended, counting as it goes. The end of the near side's input is passed on as far as the protocol can: the
// answer to it still arrives. ctx ends both at once.
func join(ctx context.Context, near, far net.Conn, sent, received func(n int)) error {
	stop := context.AfterFunc(ctx, func() {
		_ = near.Close()
		_ = far.Close()
	})
	defer stop()
	output := &lingering{Conn: far}
	var input sync.WaitGroup
	input.Go(func() {
		_, err := io.Copy(far, counting{near, sent})
		half, able := far.(interface{ CloseWrite() error })
		switch {
		case err != nil:
			_ = far.Close()
		case able:
			_ = half.CloseWrite()
		default:
			output.begin()
		}
	})
	_, err := io.Copy(near, counting{output, received})
	_ = near.Close()
	_ = far.Close()
	input.Wait()
	return err
}

// counting tells of what is read.
type counting struct {
	io.Reader
	tell func(n int)
}

// Read implements io.Reader.
func (c counting) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.tell(n)
	return n, err
}
