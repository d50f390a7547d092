package instance

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	gliderssh "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"
)

const (
	keysLimit     = 64 << 10         // bytes of an answer from KeysURL
	keysTimeout   = 30 * time.Second // for that answer, on a busy machine
	loginGrace    = 2 * time.Minute  // LoginGraceTime of the real instance
	maxForwards   = 64               // listeners per connection
	maxChannels   = 256
	acceptVersion = "OpenSSH_9.2-embedded" // begins like the server whose habits it has
)

var (
	errNotAdmitted = errors.New("not a login user of this machine, or not a key pushed for it")
	errNoneLogin   = errors.New("a login needs a key")
)

// server is an embedded instance.
type server struct {
	cfg      Config
	keys     []ssh.Signer
	log      *slog.Logger
	http     *http.Client
	listener net.Listener

	mu     sync.Mutex
	closed bool
	conns  map[net.Conn]struct{}
	wait   sync.WaitGroup
}

// startEmbedded serves SSH on a loopback port as the current user.
func startEmbedded(cfg Config, keys []ssh.Signer) (string, func() error, error) {
	for _, user := range cfg.OSUsers {
		if err := makeDir(filepath.Join(cfg.Dir, "home", user)); err != nil {
			return "", nil, err
		}
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", nil, err
	}
	s := &server{
		cfg: cfg, keys: keys, listener: l, conns: map[net.Conn]struct{}{},
		log: cfg.Logger.With("instance", cfg.ID),
		// One request per key offered: keeping connections would only leave goroutines behind.
		http: &http.Client{Timeout: keysTimeout, Transport: &http.Transport{DisableKeepAlives: true}},
	}
	s.wait.Add(1)
	go s.accept()
	return l.Addr().String(), s.close, nil
}

func (s *server) accept() {
	defer s.wait.Done()
	for {
		conn, err := s.listener.Accept()
		if err != nil {
			return
		}
		if !s.track(conn) {
			_ = conn.Close()
			return
		}
		go func() {
			defer s.untrack(conn)
			s.serve(conn)
		}()
	}
}

func (s *server) track(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.conns[conn] = struct{}{}
	s.wait.Add(1)
	return true
}

func (s *server) untrack(conn net.Conn) {
	_ = conn.Close()
	s.mu.Lock()
	delete(s.conns, conn)
	s.mu.Unlock()
	s.wait.Done()
}

func (s *server) close() error {
	s.mu.Lock()
	s.closed = true
	err := s.listener.Close()
	for conn := range s.conns {
		_ = conn.Close()
	}
	s.mu.Unlock()
	s.wait.Wait()
	return err
}

// serve carries one connection on gliderlabs' scaffold. Only the scaffold is used: its session handler drops terminal modes and loses signals,
// its forwarding closes both directions at the first end of file and shares one table between all connections.
// A server value of its own for every connection keeps connections apart, and gives the handlers their connection without a context value.
func (s *server) serve(raw net.Conn) {
	ctx, cancel := context.WithCancel(context.Background())
	c := &connection{server: s, ctx: ctx, log: s.log.With("from", raw.RemoteAddr().String()), slots: make(chan struct{}, maxChannels)}
	c.forwards.listeners = map[string]net.Listener{}
	grace := time.AfterFunc(loginGrace, func() { _ = raw.Close() })
	scaffold := &gliderssh.Server{
		Version: acceptVersion,
		ServerConfigCallback: func(gliderssh.Context) *ssh.ServerConfig {
			return s.serverConfig(func() { grace.Stop() })
		},
		HostSigners:     toSigners(s.keys),
		ChannelHandlers: c.channelHandlers(),
		RequestHandlers: c.requestHandlers(),
		Handler:         func(gliderssh.Session) {},
	}
	scaffold.HandleConn(raw)
	grace.Stop()
	cancel()
	c.end()
}

// serverConfig is who may log in. The library turns "no authentication" on when none of its own handlers is set, so that a login without any key
// would succeed if NoClientAuthCallback did not refuse it.
func (s *server) serverConfig(admitted func()) *ssh.ServerConfig {
	return &ssh.ServerConfig{
		NoClientAuthCallback: func(ssh.ConnMetadata) (*ssh.Permissions, error) { return nil, errNoneLogin },
		PublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
			return nil, s.admit(conn, key)
		},
		// The key of the last query need not be the key that is proven: what counts is asked again, after the proof.
		VerifiedPublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
			if err := s.admit(conn, key); err != nil {
				return nil, err
			}
			admitted()
			return nil, nil
		},
		AuthLogCallback: func(conn ssh.ConnMetadata, method string, err error) {
			s.log.Debug("login", "user", conn.User(), "method", method, "err", err)
		},
	}
}

// admit asks whether key is known here, or was pushed for the user.
func (s *server) admit(conn ssh.ConnMetadata, key ssh.PublicKey) error {
	user := conn.User()
	if !slices.Contains(s.cfg.OSUsers, user) {
		return errNotAdmitted
	}
	if cert, ok := key.(*ssh.Certificate); ok {
		return s.certified(conn, cert)
	}
	if listed([]byte(strings.Join(s.cfg.AuthorizedKeys, "\n")), key) == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), keysTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, s.cfg.keysURL(user), nil)
	if err != nil {
		return fmt.Errorf("ask for keys: %w", err)
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return fmt.Errorf("ask for keys: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("ask for keys: %s", resp.Status)
	}
	text, err := io.ReadAll(io.LimitReader(resp.Body, keysLimit))
	if err != nil {
		return fmt.Errorf("ask for keys: %w", err)
	}
	return listed(text, key)
}

// certified asks whether a certificate is by the authority that is trusted here, for this user, and valid now.
func (s *server) certified(conn ssh.ConnMetadata, cert *ssh.Certificate) error {
	checker := &ssh.CertChecker{IsUserAuthority: func(authority ssh.PublicKey) bool {
		return listed([]byte(s.cfg.TrustedUserCA), authority) == nil
	}}
	_, err := checker.Authenticate(conn, cert)
	return err
}

// listed looks for key among authorized_keys lines. Lines that do not parse are passed over, as sshd does.
func listed(text []byte, key ssh.PublicKey) error {
	for line := range bytes.Lines(text) {
		known, _, _, _, err := ssh.ParseAuthorizedKey(line)
		if err == nil && bytes.Equal(known.Marshal(), key.Marshal()) {
			return nil
		}
	}
	return errNotAdmitted
}

func toSigners(keys []ssh.Signer) []gliderssh.Signer {
	signers := make([]gliderssh.Signer, len(keys))
	for i, key := range keys {
		signers[i] = key
	}
	return signers
}
