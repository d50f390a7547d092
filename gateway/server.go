package gateway

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// Server is the gateway. It is made by New, runs in Serve and ends in Shutdown.
type Server struct {
	cfg      Config
	rules    atomic.Pointer[rules]
	startups *startups
	seats    *seats
	lanes    *laneSeats
	dropped  atomic.Int64 // connections for which startups had no room
	warm     *warmLinks
	pushed   *pushedKeys
	turns    *turns
	silent   *lru.Cache[string, time.Time] // machines whose sshd did not answer, by Place, and when that was
	beside   *lru.Cache[string, struct{}]  // fingerprints of unknown keys that were offered by clients who then proved a good one

	cut context.CancelCauseFunc // ends every connection at once
	ctx context.Context         // ended by cut; the parent of every connection

	mu        sync.Mutex
	draining  bool
	listeners map[net.Listener]struct{}
	conns     map[*conn]struct{}
	running   sync.WaitGroup // connections; added to under mu while not draining
}

// rules is one state of the configuration that can be replaced while running. A connection asks for it anew at each decision.
type rules struct {
	directory Directory
	policy    Policy
}

// besideKept bounds Server.beside; what falls out costs its owner one hint.
const besideKept = 4096

// Causes for which the server itself ends connections.
var (
	errShuttingDown = &authz.Refusal{Reason: authz.ReasonShuttingDown}
	errGrace        = &authz.Refusal{Reason: authz.ReasonTimeout, Action: "login"}
)

// New makes a server that listens nowhere yet.
func New(cfg Config) (*Server, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg = cfg.withDefaults()
	s := &Server{
		cfg:       cfg,
		startups:  newStartups(cfg.Limits),
		seats:     newSeats(cfg.Limits),
		lanes:     newLaneSeats(cfg.Limits),
		turns:     newTurns(),
		listeners: map[net.Listener]struct{}{},
		conns:     map[*conn]struct{}{},
	}
	s.warm = newWarmLinks(cfg.Limits.WarmLinks, s.lanes, cfg.Log)
	var err error
	if s.pushed, err = newPushedKeys(); err != nil {
		return nil, err
	}
	if s.silent, err = lru.New[string, time.Time](silentMachines); err != nil {
		return nil, err
	}
	if s.beside, err = lru.New[string, struct{}](besideKept); err != nil {
		return nil, err
	}
	s.rules.Store(&rules{cfg.Directory, cfg.Policy})
	s.ctx, s.cut = context.WithCancelCause(context.Background())
	return s, nil
}

// Serve accepts connections until Shutdown is called or ctx ends, and returns when the last of its connections has ended. The end of ctx cuts them;
// Shutdown lets them finish. It closes ln. The error is nil unless accepting failed. It may be called for several listeners.
func (s *Server) Serve(ctx context.Context, ln net.Listener) error {
	if !s.addListener(ln) {
		_ = ln.Close() // the caller's listener is ours to end, used or not
		return errShuttingDown
	}
	defer s.removeListener(ln)
	stop := context.AfterFunc(ctx, func() { s.beginDrain(); s.cut(errShuttingDown) })
	defer stop()
	if s.cfg.CutExpired {
		watch, done := context.WithCancel(s.ctx)
		var watching sync.WaitGroup
		watching.Go(func() { s.watchExpiry(watch) })
		defer watching.Wait()
		defer done()
	}
	err := s.acceptLoop(ln)
	s.running.Wait()
	s.warm.wait()
	return err
}

// acceptLoop runs until the listener is closed. A passing failure, such as too many open files, is waited out.
func (s *Server) acceptLoop(ln net.Listener) error {
	const firstPause, longestPause = 5 * time.Millisecond, time.Second
	pause := firstPause
	for {
		raw, err := ln.Accept()
		switch {
		case err == nil:
			pause = firstPause
			s.welcome(raw)
		case s.isDraining() || errors.Is(err, net.ErrClosed):
			return nil
		case isPassing(err):
			s.cfg.Log.Warn("accept failed, trying again", "error", err, "pause", pause)
			select {
			case <-time.After(pause):
			case <-s.ctx.Done():
			}
			pause = min(2*pause, longestPause)
		default:
			return fmt.Errorf("gateway: accept on %s: %w", ln.Addr(), err)
		}
	}
}

// isPassing reports whether accept may work again later. net.Error.Temporary is deprecated because it means little for most errors; for accept it is
// exactly the list wanted here (EMFILE, ENFILE, ECONNABORTED, …), and net/http uses it so.
func isPassing(err error) bool {
	var temporary interface{ Temporary() bool }
	return errors.As(err, &temporary) && temporary.Temporary()
}

// welcome starts a connection, or drops it where there is no room. It must not block.
func (s *Server) welcome(raw net.Conn) {
	source := sourceOf(raw.RemoteAddr())
	if !s.startups.enter(source.Addr()) {
		s.dropped.Add(1)
		s.cfg.Log.Warn("connection dropped before login: too many at once", "source", source)
		// What sshd says here. The send buffer of a fresh connection is empty, so this does not wait; the deadline is for the impossible.
		_ = raw.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		_, _ = raw.Write([]byte("Exceeded MaxStartups\r\n"))
		_ = raw.Close()
		return
	}
	limitUnsent(raw)
	c := newConn(s, raw, source)
	if !s.addConn(c) {
		s.startups.leave(source.Addr())
		_ = raw.Close()
		return
	}
	go func() {
		defer s.removeConn(c)
		c.serve()
	}()
}

// Shutdown stops accepting, refuses new machines, and waits for the connections to end. When ctx ends first the rest are cut, politely towards AWS, and
// the error is that of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.beginDrain()
	ended := make(chan struct{})
	go func() { s.running.Wait(); s.warm.wait(); close(ended) }()
	select {
	case <-ended:
		s.cut(errShuttingDown)
		return nil
	case <-ctx.Done():
		s.cut(errShuttingDown)
		<-ended // bounded: a cut connection ends within the close timeouts of its parts
		return ctx.Err()
	}
}

// Reload replaces people and policy. Connections of people who are no longer known, and stays on machines of which something that was allowed is no longer
// allowed, are cut. The others go on and are judged by the new rules from now on. Sessions that wait for a next connection are ended.
func (s *Server) Reload(directory Directory, policy Policy) {
	now := &rules{directory, policy}
	s.rules.Store(now)
	s.warm.drop()
	s.pushed.forget()
	for _, c := range s.connections() {
		c.recheck(now)
	}
}

// judgedAt is the time at which the validity of a proof counts: that of the login, or now where expiry cuts.
func (s *Server) judgedAt(login time.Time) time.Time {
	if s.cfg.CutExpired {
		return time.Now()
	}
	return login
}

// watchExpiry judges all connections again now and then, until ctx ends.
func (s *Server) watchExpiry(ctx context.Context) {
	again := time.NewTicker(s.cfg.Limits.ExpiryCheck)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-again.C:
			for _, c := range s.connections() {
				c.recheck(s.rules.Load())
			}
		}
	}
}

// beginDrain closes the listeners and the connections that hold nothing.
func (s *Server) beginDrain() {
	s.mu.Lock()
	s.draining = true
	for ln := range s.listeners {
		_ = ln.Close()
	}
	s.mu.Unlock()
	s.warm.close()
	for _, c := range s.connections() {
		c.drain()
	}
}

func (s *Server) isDraining() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.draining
}

func (s *Server) addListener(ln net.Listener) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.listeners[ln] = struct{}{}
	return true
}

func (s *Server) removeListener(ln net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, ln)
	_ = ln.Close()
}

func (s *Server) addConn(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.draining {
		return false
	}
	s.conns[c] = struct{}{}
	s.running.Add(1)
	return true
}

func (s *Server) removeConn(c *conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	s.running.Done()
}

func (s *Server) connections() []*conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make([]*conn, 0, len(s.conns))
	for c := range s.conns {
		all = append(all, c)
	}
	return all
}

// sourceOf gives the address of a peer; the zero AddrPort for one without.
func sourceOf(addr net.Addr) netip.AddrPort {
	tcp, ok := addr.(*net.TCPAddr)
	if !ok {
		return netip.AddrPort{}
	}
	at := tcp.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}

// logPanic keeps a fault in one connection from ending all others. To be deferred directly.
func logPanic(log *slog.Logger, during string) {
	if fault := recover(); fault != nil {
		log.Error("panic", "during", during, "panic", fmt.Sprint(fault), "stack", stack())
	}
}
