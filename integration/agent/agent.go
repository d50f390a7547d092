// Package agent is the instance's side of Session Manager: it keeps a control channel to a message gateway and serves the sessions it is told to start.
//
// It is written from what the amazon-ssm-agent (3.3, its source and running it) is known to do, and shares nothing with the client side of this project but the message codec, so that
// the two cannot agree on a mistake. Habits of the real agent that a client has to cope with are reproduced; Quirks turns them off one by one.
package agent

import (
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

const (
	defaultVersion = "3.3.987.0"
	maxSessions    = 1000 // session workers of AWS's agent, SPEC.md §13.4
)

// Config describes one agent. Endpoint, InstanceID and Region are required.
type Config struct {
	// Endpoint is the message gateway: http or https, host and port.
	Endpoint string
	// TLS is used for an https endpoint. Nil means the system's trust.
	TLS *tls.Config
	// InstanceID is who the agent says it is.
	InstanceID string
	// Region is part of every signature.
	Region string
	// Credentials sign the requests and upgrades.
	Credentials Credentials
	// AgentVersion is announced in handshakes; clients decide by it whether to multiplex. Four numbers; default "3.3.987.0".
	AgentVersion string
	// PortMap gives the address to dial for a port of the instance (host "localhost") or of an address behind it (host is an IP address), so that
	// several instances can share a machine. "" refuses the connection. Without it addresses are used as they are.
	PortMap func(host string, port int) (addr string)
	// Lookup resolves the host of a remote-host session. Default: the system's resolver.
	Lookup func(ctx context.Context, host string) ([]netip.Addr, error)
	// Shell is the program of a shell session, with its arguments. Default: "sh".
	Shell []string
	// Quirks says in what the agent is to differ from the real one. The zero value is like the real one.
	Quirks Quirks
	// Logger takes what happens, at debug level. Optional.
	Logger *slog.Logger
}

// Agent is a running agent.
type Agent struct {
	cfg      Config
	log      *slog.Logger
	gateway  messageGateway
	cancel   context.CancelFunc
	wait     sync.WaitGroup
	ready    chan struct{}
	setReady func()

	mu       sync.Mutex
	closed   bool
	control  *socket // nil while there is none
	sessions map[string]*session
	pending  map[ssmproto.UUID]chan struct{} // completions that wait for their acknowledgement
}

// Start begins to keep a control channel, until ctx ends or Close is called. It does not wait for the first connection: see Ready.
func Start(ctx context.Context, cfg Config) (*Agent, error) {
	if err := cfg.complete(); err != nil {
		return nil, fmt.Errorf("agent: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	a := &Agent{
		cfg: cfg, log: cfg.Logger.With("instance", cfg.InstanceID), cancel: cancel, ready: make(chan struct{}),
		gateway: newMessageGateway(&cfg), sessions: map[string]*session{}, pending: map[ssmproto.UUID]chan struct{}{},
	}
	a.setReady = sync.OnceFunc(func() { close(a.ready) })
	a.wait.Go(func() { a.keepControl(ctx) })
	return a, nil
}

// Ready is closed when the control channel has been opened for the first time.
func (a *Agent) Ready() <-chan struct{} { return a.ready }

// Close ends all sessions and the control channel at once, as a machine that is switched off, and returns when nothing is left running.
func (a *Agent) Close() error {
	a.mu.Lock()
	a.closed = true
	a.mu.Unlock()
	a.cancel()
	a.wait.Wait()
	return nil
}

func (c *Config) complete() error {
	u, err := url.Parse(c.Endpoint)
	if err != nil {
		return fmt.Errorf("endpoint: %w", err)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.Trim(u.Path, "/") != "" {
		return fmt.Errorf("endpoint %q is not http(s)://host:port", c.Endpoint)
	}
	if c.InstanceID == "" || c.Region == "" {
		return errors.New("instance id and region are required")
	}
	if c.AgentVersion == "" {
		c.AgentVersion = defaultVersion
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	if len(c.Shell) == 0 {
		c.Shell = []string{"sh"}
	}
	if c.Lookup == nil {
		c.Lookup = systemLookup
	}
	if c.PortMap == nil {
		c.PortMap = func(host string, port int) string { return joinHostPort(host, port) }
	}
	return nil
}

// newID makes a random identifier (RFC 9562 version 4).
func newID() ssmproto.UUID {
	var id ssmproto.UUID
	_, _ = crand.Read(id[:]) // does not fail, crypto/rand
	id[6] = id[6]&0x0f | 0x40
	id[8] = id[8]&0x3f | 0x80
	return id
}

// version is an agent's or client's version. Only the leading digits of each part count: "1.2.0.0-x" is 1.2.0.0.
type version [4]int

func parseVersion(text string) version {
	var v version
	for i, part := range strings.SplitN(text, ".", len(v)) {
		end := 0
		for end < len(part) && part[end] >= '0' && part[end] <= '9' {
			end++
		}
		v[i], _ = strconv.Atoi(part[:end]) // nothing is zero
	}
	return v
}

func (v version) newerThan(other version) bool {
	for i := range v {
		if v[i] != other[i] {
			return v[i] > other[i]
		}
	}
	return false
}

// jitter is d and up to as much again, so that a fleet does not come back in one moment.
func jitter(d time.Duration) time.Duration { return d + upTo(d) }

func upTo(d time.Duration) time.Duration {
	return rand.N(d) //nolint:gosec // spreads load, hides nothing
}

// sleep waits for d or for ctx; it is false when ctx ended.
func sleep(ctx context.Context, d time.Duration) bool {
	if ctx.Err() != nil {
		return false
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
