package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/stripe"
)

// sftpSubsystem is the program whose streams can be striped.
var sftpSubsystem = Program{Request: "subsystem", Command: "sftp"}

// carryFiles carries an SFTP session both ways, and spreads what it reads and writes of large files over lanes that nothing else uses. It takes the place of
// copying, and returns when the machine's side has ended and the client has been given all of it; what it gives is to be waited for once both sides
// have closed.
//
// It is not ended by the bridge's context: what the client has sent before it left still goes to the machine, as long as the bridge lets it.
func (c *channel) carryFiles(to *landing) interface{ Wait() } {
	b := c.bridge
	client := clientFiles{c, sync.OnceFunc(func() { close(c.inputEnded) })}
	cfg := stripe.Config{
		MaxLanes: min(b.cfg.Limits.FileLanes, b.lanes.limit),
		Open:     func(context.Context) (io.ReadWriteCloser, error) { return b.openFileLane() },
		Log:      b.cfg.Log.With("channel", c.info.ID),
	}
	if b.cfg.Late {
		cfg.Early = -1
	}
	proxy := stripe.New(client, &firstFiles{c, to}, cfg)
	if err := proxy.Run(context.WithoutCancel(b.ctx)); err != nil {
		b.cfg.Log.Info("SFTP ended early", "channel", c.info.ID, "err", err)
		_ = to.ch.Close() // whoever broke the protocol, there is no going on
	}
	return proxy
}

// clientFiles is the client's half as the proxy sees it.
type clientFiles struct {
	c     *channel
	ended func()
}

// Read implements io.Reader.
func (f clientFiles) Read(p []byte) (int, error) {
	n, err := f.c.client.ch.Read(p)
	f.c.info.In.Add(int64(n))
	f.c.bridge.heard.Add(1)
	if err != nil {
		f.ended()
	}
	return n, err
}

// Write implements io.Writer.
func (f clientFiles) Write(p []byte) (int, error) {
	n, err := paced{f.c, f.c.target()}.Write(p)
	f.c.info.Out.Add(int64(n))
	return n, err
}

// firstFiles is the machine's half.
type firstFiles struct {
	c  *channel
	at *landing
}

// Read implements io.Reader.
func (f *firstFiles) Read(p []byte) (int, error) {
	n, err := f.at.ch.Read(p)
	f.at.berth.lane.heard.Add(1)
	return n, err
}

// Write implements io.Writer.
func (f *firstFiles) Write(p []byte) (int, error) { return f.at.ch.Write(p) }

// CloseWrite tells the machine that there are no more requests.
func (f *firstFiles) CloseWrite() error { return f.at.ch.CloseWrite() }

// Close does nothing: the channel closes both halves in their turn, when the exit status has passed.
func (f *firstFiles) Close() error { return nil }

// errNoFileLane is why there is no further SFTP session.
var errNoFileLane = errors.New("no further lane for files")

// openFileLane opens another SFTP session, on a lane that carries nothing else. That the person may use SFTP has been decided for the first.
func (b *bridge) openFileLane() (*fileLane, error) {
	at, err := b.openUp(need{traffic: bulk, session: true, alone: true}, "session", nil)
	if errors.Is(err, errNoLane) {
		return nil, fmt.Errorf("%w: %w", stripe.ErrNoRoom, err)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errNoFileLane, err)
	}
	f := &fileLane{bridge: b, at: at, ended: make(chan struct{})}
	f.close = sync.OnceFunc(f.closeOnce)
	b.spawn(func() {
		ssh.DiscardRequests(at.reqs)
		close(f.ended)
		b.lanes.mu.Lock()
		at.berth.lane.yield, at.berth.lane.yielding = nil, false
		b.lanes.mu.Unlock()
		b.leave(at.berth)
	})
	b.spawn(func() { _, _ = io.Copy(io.Discard, at.ch.Stderr()) })
	ok, err := at.ch.SendRequest(sftpSubsystem.Request, true, sftpSubsystem.payload())
	if err != nil || !ok {
		f.close()
		return nil, fmt.Errorf("%w: the subsystem was refused (%w)", errNoFileLane, err)
	}
	b.lanes.mu.Lock()
	defer b.lanes.mu.Unlock()
	if !closedAlready(f.ended) {
		at.berth.lane.yield = func() {
			f.givenBack.Store(true)
			f.close()
		}
	}
	return f, nil
}

// fileLane is a further SFTP session.
type fileLane struct {
	bridge *bridge
	at     *landing
	ended  chan struct{} // closed when the machine has closed it
	close  func()

	givenBack atomic.Bool // somebody else needs the lane
}

// Read implements io.Reader.
func (f *fileLane) Read(p []byte) (int, error) {
	n, err := f.at.ch.Read(p)
	f.at.berth.lane.heard.Add(1)
	if err != nil && f.givenBack.Load() {
		err = stripe.ErrNoRoom
	}
	return n, err
}

// Write implements io.Writer.
func (f *fileLane) Write(p []byte) (int, error) { return f.at.ch.Write(p) }

// Close implements io.Closer. Who waits in Read or Write is let go when the machine answers, or else when the lane is given up a moment later: nothing else
// is on it.
func (f *fileLane) Close() error {
	f.close()
	return nil
}

func (f *fileLane) closeOnce() {
	f.bridge.spawn(func() {
		limit := time.AfterFunc(f.bridge.cfg.Limits.Drain, f.giveUp)
		defer limit.Stop()
		_ = f.at.ch.Close()
		<-f.ended
	})
}

// giveUp ends the lane, unless somebody shares it; then its keepalives will tell.
func (f *fileLane) giveUp() {
	l := f.at.berth.lane
	f.bridge.lanes.mu.Lock()
	shared := l.holds != [traffics]int{bulk: 1} || l.listeners > 0
	f.bridge.lanes.mu.Unlock()
	if !shared {
		_ = l.Conn.Close()
	}
}

// makeRoom has a striped transfer give up one of its further lanes, which it can do without, so that something else need not share one with a transfer. It
// reports whether one will be free soon. The caller holds mu.
func (s *laneSet) makeRoom() bool {
	if s.mayOpen() || s.opening > 0 {
		return false
	}
	for _, l := range s.list {
		if l.yielding {
			return true
		}
	}
	for _, l := range s.list {
		if l.yield != nil && l.holds == [traffics]int{bulk: 1} {
			l.yielding = true
			l.yield()
			return true
		}
	}
	return false
}
