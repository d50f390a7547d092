package awsemu

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// HeaderEmulator is on every answer, so that nobody takes the emulator for AWS.
const HeaderEmulator = "X-Ssm-Ssh-Gateway-Emulator"

// Config is the world to emulate. The zero value is an empty world on a free port of 127.0.0.1.
type Config struct {
	Accounts []Account

	// Listen is the plain HTTP address; 127.0.0.1:0 when empty. Addresses that are not loopback are refused.
	Listen string
	// TLS adds an HTTPS listener (ListenTLS, 127.0.0.1:0 when empty), which URL and StreamUrl then name. The certificate is for 127.0.0.1, ::1 and
	// localhost under a CA of its own, whose certificate is written to CAFile when that is given.
	TLS       bool
	ListenTLS string
	CAFile    string

	// Delay is what a message takes from one WebSocket to the other; DefaultDelay when zero, none when negative.
	Delay time.Duration
	// AgentSettle is how long after its control channel a node counts as connected; none when zero. AWS's agent drops
	// messages for about a second until its processors are registered, so give it one.
	AgentSettle time.Duration
	// AgentWait is how long StartSession's agent may take to open its data channel; 10 seconds when zero. Then the session fails.
	AgentWait time.Duration
	// RequireSignedChannels refuses WebSocket upgrades and channel requests without a valid signature for ssmmessages. AWS accepts unsigned upgrades.
	RequireSignedChannels bool
	// Faults are in force from the start, for everything.
	Faults Faults

	// Now replaces the clock for signatures, credentials, tokens and pushed keys. Timers of sessions run on the real one.
	Now func() time.Time
	Log *slog.Logger
}

// DefaultDelay keeps acknowledgements from overtaking the bookkeeping of the reference programs (SPEC.md §4.3).
const DefaultDelay = 5 * time.Millisecond

const (
	defaultAgentWait  = 10 * time.Second
	headerTimeout     = 10 * time.Second
	requestTimeout    = 30 * time.Second // to arrive; WebSockets leave it behind
	idleTimeout       = 2 * time.Minute
	shutdownTimeout   = 5 * time.Second
	maxHeaderBytes    = 64 << 10
	maxConcurrentCall = 256
)

// Server is the emulator at work.
type Server struct {
	cfg    Config
	log    *slog.Logger
	start  time.Time
	plain  net.Listener
	secure net.Listener // nil without TLS
	caPEM  []byte
	http   *http.Server
	wg     sync.WaitGroup
	slots  chan struct{} // bounds API calls in flight

	calls  callLog
	faults faultBook
	kms    sealer

	mu        sync.Mutex
	closed    bool
	users     map[string]*User      // by ARN
	roles     map[string]*Role      // by ARN
	keys      map[string]*principal // static and temporary, by access key id
	instances map[string]*instance  // by id
	nodes     map[string]*node      // by id
	documents map[string]*Document  // by account/region-free name, see documentKey
	kmsKeys   map[string]*kmsKey    // by ARN
	pushed    []pushedKey
	agents    map[string]*agentLink // by instance or node id
	sessions  map[string]*session   // by id, ended ones too while in history
	history   []string              // ids of ended sessions, oldest first
	tokens    map[string]token
	sockets   map[*websocket.Conn]bool
	changed   chan struct{} // closed and replaced when agents or sessions change
}

// Start builds the world and begins to listen.
func Start(cfg Config) (*Server, error) {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Delay == 0 {
		cfg.Delay = DefaultDelay
	}
	if cfg.AgentWait == 0 {
		cfg.AgentWait = defaultAgentWait
	}
	s := &Server{
		cfg: cfg, log: cfg.Log, start: cfg.Now(), slots: make(chan struct{}, maxConcurrentCall),
		users: map[string]*User{}, roles: map[string]*Role{}, keys: map[string]*principal{}, instances: map[string]*instance{},
		nodes: map[string]*node{}, documents: map[string]*Document{}, kmsKeys: map[string]*kmsKey{}, agents: map[string]*agentLink{},
		sessions: map[string]*session{}, tokens: map[string]token{}, sockets: map[*websocket.Conn]bool{}, changed: make(chan struct{}),
	}
	s.faults.init(cfg.Faults)
	if err := s.kms.init(); err != nil {
		return nil, err
	}
	if err := s.populate(cfg.Accounts); err != nil {
		return nil, err
	}
	if err := s.listen(); err != nil {
		return nil, errors.Join(err, s.closeListeners())
	}
	s.serve()
	return s, nil
}

func (s *Server) now() time.Time { return s.cfg.Now() }

// listen opens the plain listener and, with TLS, the secure one.
func (s *Server) listen() error {
	var err error
	if s.plain, err = listenLoopback(s.cfg.Listen); err != nil {
		return err
	}
	if !s.cfg.TLS {
		return nil
	}
	raw, err := listenLoopback(s.cfg.ListenTLS)
	if err != nil {
		return err
	}
	if s.secure, s.caPEM, err = secureListener(raw); err != nil {
		return errors.Join(err, raw.Close())
	}
	if s.cfg.CAFile != "" {
		if err := os.WriteFile(s.cfg.CAFile, s.caPEM, 0o644); err != nil {
			return fmt.Errorf("awsemu: writing the CA certificate: %w", err)
		}
	}
	return nil
}

// listenLoopback refuses every address that others could reach.
func listenLoopback(address string) (net.Listener, error) {
	if address == "" {
		address = "127.0.0.1:0"
	}
	at, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("awsemu: listen address: %w", err)
	}
	if !at.IP.IsLoopback() {
		return nil, fmt.Errorf("awsemu: %s is not a loopback address, and the emulator listens on loopback only", address)
	}
	l, err := net.ListenTCP("tcp", at)
	if err != nil {
		return nil, fmt.Errorf("awsemu: %w", err)
	}
	return l, nil
}

func (s *Server) serve() {
	s.http = &http.Server{
		Handler: s.handler(), ReadHeaderTimeout: headerTimeout, ReadTimeout: requestTimeout, IdleTimeout: idleTimeout, MaxHeaderBytes: maxHeaderBytes,
		ErrorLog: slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	for _, l := range []net.Listener{s.plain, s.secure} {
		if l == nil {
			continue
		}
		s.wg.Go(func() {
			if err := s.http.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				s.log.Error("emulator stopped serving", "address", l.Addr(), "error", err)
			}
		})
	}
}

// Close ends all sessions and connections and returns when nothing of the emulator runs any more.
func (s *Server) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.closed = true
	sessions := make([]*session, 0, len(s.sessions))
	for _, ses := range s.sessions {
		sessions = append(sessions, ses)
	}
	for ws := range s.sockets {
		_ = ws.NetConn().Close()
	}
	s.mu.Unlock()
	for _, ses := range sessions {
		ses.abandon()
	}
	ctx, cancel := context.WithTimeout(context.Background(), shutdownTimeout)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if err != nil {
		err = errors.Join(err, s.http.Close())
	}
	s.wg.Wait()
	return err
}

func (s *Server) closeListeners() error {
	var errs []error
	for _, l := range []net.Listener{s.plain, s.secure} {
		if l != nil {
			errs = append(errs, l.Close())
		}
	}
	return errors.Join(errs...)
}

// URL is the endpoint of all services, for AWS_ENDPOINT_URL: https with TLS, else http.
func (s *Server) URL() string {
	if s.secure != nil {
		return "https://" + s.secure.Addr().String()
	}
	return s.PlainURL()
}

// PlainURL is the endpoint without TLS; it serves the same, and the control paths under /_emulator/ to programs that can do no TLS.
func (s *Server) PlainURL() string { return "http://" + s.plain.Addr().String() }

// CAPEM is the certificate of the CA that signed the emulator's, nil without TLS.
func (s *Server) CAPEM() []byte { return s.caPEM }
