package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// conn is one connection from a client to the gateway: what the person calls "the gateway", and inside of which jumps to machines run.
type conn struct {
	srv    *Server
	raw    net.Conn
	ref    string
	source netip.AddrPort
	log    *slog.Logger
	opened time.Time
	ctx    context.Context
	cancel context.CancelCauseFunc

	tasks sync.WaitGroup // jumps, ports and built-in sessions
	seat  string         // the person whose seat is taken; set during the handshake
	known func()         // gives back the startup slot, taken at accept, once somebody is known
	stay  *arrival       // what a direct login has begun; set during the handshake

	mu     sync.Mutex
	proof  *proof // nil until the login is done
	visits map[*visit]struct{}
	busy   int           // tasks that run
	idle   chan struct{} // closed when busy comes to 0; nil while nobody waits for that
}

func newConn(s *Server, raw net.Conn, source netip.AddrPort) *conn {
	c := &conn{srv: s, raw: raw, ref: newRef(), source: source, opened: time.Now(), visits: map[*visit]struct{}{}}
	c.log = s.cfg.Log.With("conn", c.ref, "source", source.String())
	c.ctx, c.cancel = context.WithCancelCause(s.ctx)
	c.known = sync.OnceFunc(func() { s.startups.leave(source.Addr()) })
	return c
}

// serve is the whole life of the connection.
func (c *conn) serve() {
	defer logPanic(c.log, "connection")
	defer c.tasks.Wait()
	defer func() { _ = c.raw.Close() }() // before the wait: after a panic nothing else would end the tasks
	defer c.cancel(nil)
	defer func() {
		if c.seat != "" {
			c.srv.seats.release(c.seat)
		}
	}()
	c.srv.record(c.event(EventConnectionOpened))

	client, p, err := c.login()
	if err != nil {
		e := c.event(EventConnectionRefused)
		withCause(&e, err)
		c.srv.record(e)
		c.log.Info("no login", "reason", reasonOf(err), "error", err)
		if c.stay != nil {
			c.stay.leave(err)
		}
		return
	}
	c.authenticated(client, p)

	if c.stay != nil {
		err = c.stay.direct(client)
	} else {
		err = c.jumps(client, p)
	}
	e := c.event(EventConnectionClosed)
	who(&e, p.identity)
	e.Duration = time.Since(c.opened).Milliseconds()
	withCause(&e, err)
	c.srv.record(e)
	c.log.Info("connection closed", "person", p.identity.Person, "cause", err)
}

// login does the handshake and takes a seat for the person.
func (c *conn) login() (bridge.Leg, *proof, error) {
	defer c.known()
	d := &doorman{ctx: c.ctx, srv: c.srv, source: c.source, explain: c.text}
	d.admit = func(ctx context.Context, p *proof) error {
		if err := c.admit(ctx, p); err != nil {
			return err
		}
		c.known()
		if p.route != nil {
			c.stay = c.arrive(p.route)
			d.relayBanner(ctx, c.stay.visit, c.stay.up)
		}
		return nil
	}
	return d.handshake(c.raw, c.srv.cfg.Limits, c.srv.ownHostKeys())
}

// ownHostKeys are the keys to show on the outer connection: a certificate for the gateway's names, asked for each time because it is short-lived, and the keys
// themselves.
func (s *Server) ownHostKeys() []ssh.Signer {
	if len(s.cfg.Names) == 0 {
		return s.cfg.HostKeys
	}
	certified, _, err := s.cfg.Issuer.Signer(s.cfg.Names...)
	if err != nil {
		s.cfg.Log.Error("no host certificate for the gateway itself", "names", s.cfg.Names, "error", err)
	}
	if certified == nil {
		return s.cfg.HostKeys
	}
	return append([]ssh.Signer{certified}, s.cfg.HostKeys...)
}

// admit decides what the login of somebody proven means: a machine (ec2-user@i-abc@gateway), or none.
func (c *conn) admit(ctx context.Context, p *proof) error {
	if c.srv.isDraining() {
		return errShuttingDown
	}
	if err := c.routeOf(ctx, p); err != nil {
		e := c.event(EventTargetRefused)
		who(&e, p.identity)
		e.Login = p.user
		withCause(&e, err)
		c.srv.record(e)
		return err
	}
	if c.seat != "" { // cannot be: the library ends authentication at the first success
		return &authz.Refusal{Reason: authz.ReasonInternal, Detail: "admitted twice"}
	}
	if !c.srv.seats.take(p.identity.Person) {
		return &authz.Refusal{Reason: authz.ReasonTooManyConnections, Subject: p.identity.Person}
	}
	c.seat = p.identity.Person
	return nil
}

// authenticated makes the login known: to Reload, to the log and to the audit.
func (c *conn) authenticated(client bridge.Leg, p *proof) {
	c.mu.Lock()
	c.proof = p
	c.mu.Unlock()
	e := c.event(EventConnectionAuthenticated)
	who(&e, p.identity)
	e.Login, e.ClientVersion = p.user, string(client.Conn.ClientVersion())
	c.srv.record(e)
	attrs := []any{"person", p.identity.Person, "key", p.identity.Fingerprint, "login", p.user, "client", e.ClientVersion, "took", time.Since(c.opened)}
	if negotiated, ok := client.Conn.(ssh.AlgorithmsConnMetadata); ok {
		a := negotiated.Algorithms()
		attrs = append(attrs, "kex", a.KeyExchange, "cipher", a.Write.Cipher)
	}
	c.log.Info("logged in", attrs...)
	c.recheck(c.srv.rules.Load()) // a reload may have come between the handshake's rules and now
}

// recheck cuts the connection if its person is no longer known, else judges the stays on it again.
func (c *conn) recheck(now *rules) {
	c.mu.Lock()
	p := c.proof
	visits := make([]*visit, 0, len(c.visits))
	for v := range c.visits {
		visits = append(visits, v)
	}
	c.mu.Unlock()
	if p == nil {
		return // authenticated will ask
	}
	if err := now.directory.StillValid(p.identity, c.srv.judgedAt(p.at)); err != nil {
		c.cancel(err)
		return
	}
	for _, v := range visits {
		v.recheck(now)
	}
}

// start runs a task of the connection; it says no when there are too many.
func (c *conn) start(task func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.busy >= c.srv.cfg.Limits.MachinesPerConnection || c.ctx.Err() != nil {
		return false
	}
	c.busy++
	c.tasks.Go(func() {
		defer c.finished()
		defer logPanic(c.log, "task")
		task()
	})
	return true
}

func (c *conn) finished() {
	c.mu.Lock()
	c.busy--
	idle := c.busy == 0
	if idle && c.idle != nil {
		close(c.idle)
		c.idle = nil
	}
	c.mu.Unlock()
	if idle && c.srv.isDraining() {
		c.cancel(errShuttingDown)
	}
}

// farewellTime is how long a connection that is cut stays for the last words to its sessions. It exceeds what a bridge takes for them.
const farewellTime = 8 * time.Second

// awaitIdle waits until no task runs, for a bounded time. No task starts any more: the context has ended.
func (c *conn) awaitIdle() {
	c.mu.Lock()
	idle := make(chan struct{})
	if c.busy == 0 {
		close(idle)
	} else {
		c.idle = idle
	}
	c.mu.Unlock()
	limit := time.NewTimer(farewellTime)
	defer limit.Stop()
	select {
	case <-idle:
	case <-limit.C:
	}
}

// drain ends a connection that holds nothing; the others end themselves when they have become empty (finished), or are cut when time is up.
func (c *conn) drain() {
	c.mu.Lock()
	holdsNothing := c.busy == 0 && (c.proof == nil || c.proof.route == nil)
	c.mu.Unlock()
	if holdsNothing {
		c.cancel(errShuttingDown)
	}
}

// event begins an event with what is known of the connection.
func (c *conn) event(what string) Event {
	e := Event{Event: what, Ref: c.ref}
	if c.source.IsValid() {
		e.Source = c.source.String()
	}
	return e
}

// text words a failure for the person and logs its cause under the same reference.
func (c *conn) text(err error) string {
	c.log.Warn("refused", "ref", c.ref, "reason", reasonOf(err), "error", err)
	return sentence(err, c.ref)
}

// refuse rejects a channel in words.
func refuse(channel ssh.NewChannel, reason ssh.RejectionReason, text string) {
	_ = channel.Reject(reason, text) // fails only when the connection has
}

// rejection is the SSH reason code that goes with a refusal: prohibited where somebody decided so, else a failed connection.
func rejection(err error) ssh.RejectionReason {
	switch reasonOf(err) {
	case authz.ReasonNotPermitted, authz.ReasonPolicyError, authz.ReasonNoRole, authz.ReasonBadTargetName, authz.ReasonAccessDenied, authz.ReasonDifferentIdentity,
		authz.ReasonUnsupportedTarget, authz.ReasonBadOSUser:
		return ssh.Prohibited
	case authz.ReasonTooManyConnections, authz.ReasonShuttingDown:
		return ssh.ResourceShortage
	}
	return ssh.ConnectionFailed
}

// cutCause is why a connection was cut, or err where it was not.
func cutCause(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, bridge.ErrClientLeft) {
		return cause
	}
	return err
}
