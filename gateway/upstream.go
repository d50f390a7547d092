package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/hostkeys"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// upstream is one SSH connection of the gateway's own to the sshd of a machine, through a Session Manager session. It is made for one stay and never shared:
// agent, X11 and remote forwards belong to one connection. A stay may have several: see fleet.
//
// What can be done at the same time is: openUpstream begins StartSession as soon as policy has said yes, while the person still logs in; login, when the OS
// user is known, begins the key push, which meanwhile runs beside key exchange. Only the authentication waits for it.
type upstream struct {
	srv    *Server
	visit  *visit
	route  route // as of openUpstream; login adds the OS user
	cancel context.CancelCauseFunc

	osUser chan string   // holds the OS user from login on
	over   chan struct{} // closed when leg or err is set
	leg    leg
	err    error

	tasks  sync.WaitGroup
	banner *banner
	fate   atomic.Pointer[authz.Refusal] // what Session Manager ended the session for
}

// openUpstream begins to open a session to the machine. close must follow.
func openUpstream(v *visit) *upstream {
	u := &upstream{srv: v.conn.srv, visit: v, route: v.current(), osUser: make(chan string, 1), over: make(chan struct{}), banner: newBanner()}
	ctx, cancel := context.WithCancelCause(v.ctx)
	u.cancel = cancel
	u.tasks.Go(func() {
		defer close(u.over)
		defer func() {
			if fault := recover(); fault != nil {
				u.err = fmt.Errorf("panic: %v", fault)
				v.log.Error("panic", "during", "upstream", "panic", fmt.Sprint(fault), "stack", stack())
			}
		}()
		u.leg, u.err = u.open(ctx)
		if u.err != nil {
			e := v.event(EventUpstreamFailed)
			withCause(&e, u.err)
			u.srv.record(e)
		}
	})
	return u
}

// login tells the OS user. It must be called once, when the person has proven who they are on this login.
func (u *upstream) login(osUser string) { u.osUser <- osUser }

// wait gives the connection, or why there is none. It is what the bridge calls at first need.
func (u *upstream) wait(ctx context.Context) (leg, error) {
	select {
	case <-u.over:
		return u.leg, u.err
	case <-ctx.Done():
		return leg{}, context.Cause(ctx)
	}
}

// close ends the connection or the attempt, politely towards AWS, and waits for both.
func (u *upstream) close() {
	u.end()
	if u.err == nil {
		// Nobody may have taken the leg over; its streams must be emptied for the library's loops to end.
		discardLeg(u.leg)
	}
}

// end is close for a connection whose streams somebody serves.
func (u *upstream) end() {
	u.cancel(io.ErrClosedPipe)
	u.tasks.Wait()
	if u.err == nil {
		_ = u.leg.conn.Close()
	}
}

// notice is what the machine's sshd said before login and could not be shown then, for stderr of the first session.
func (u *upstream) notice() string { return printableLines(u.banner.take()) }

// open does the three steps: session, OS user, SSH. A machine that showed a key of another type than those just learned gets a second try, in which a type
// that is known is negotiated.
func (u *upstream) open(ctx context.Context) (leg, error) {
	key, err := u.visit.key.key()
	if err != nil {
		return leg{}, err
	}
	up, err := u.attempt(ctx, key)
	if errors.Is(err, hostkeys.ErrOtherKeyType) {
		u.visit.log.Info("trying again for a host key of a known type", "error", err)
		up, err = u.attempt(ctx, key)
	}
	return up, err
}

// attempt opens a session and logs in over it.
func (u *upstream) attempt(ctx context.Context, key ssh.Signer) (leg, error) {
	port, sessionID, err := u.srv.openPort(ctx, u.visit, u.route, true)
	if err != nil {
		return leg{}, err
	}
	c := &carrier{Conn: port, onLost: u.lost}
	var osUser string
	select {
	case osUser = <-u.osUser:
		u.osUser <- osUser // for a second attempt
	case <-ctx.Done():
		c.abandon()
		return leg{}, context.Cause(ctx)
	}
	up, seen, err := u.handshake(ctx, c, sessionID, key, osUser)
	if err != nil {
		c.abandon()
		return leg{}, err
	}
	c.live.Store(true)
	u.visit.settleWay(seen.offer.way)
	e := u.visit.event(EventUpstreamOpened)
	e.SessionID, e.HostKey, e.HostKeyHow = sessionID, seen.hostKey, seen.how
	seen.offer.describe(&e)
	u.srv.record(e)
	u.visit.log.Info("logged in to the machine", "session", sessionID, "os_user", osUser, "by", seen.offer.way, "host_key", seen.hostKey, "host_key_how", seen.how)
	up.conn = &fatedConn{up.conn, u}
	return up, nil
}

// lost notes why Session Manager ended the session under a live connection, so that the person's sessions are told.
func (u *upstream) lost(err error) {
	var ended *ssmproto.SessionEndedError
	if errors.As(err, &ended) {
		u.fate.Store(&authz.Refusal{Reason: authz.ReasonSessionEnded, Subject: u.route.named, Detail: ended.Output, Cause: err})
	}
}

// fatedConn is a connection to a machine that knows more about its end than that bytes stopped coming.
type fatedConn struct {
	ssh.Conn
	up *upstream
}

// Wait implements ssh.Conn. The error is an *authz.Refusal, so that a person is told of a lost connection in words.
func (c *fatedConn) Wait() error {
	err := c.Conn.Wait()
	if fate := c.up.fate.Load(); fate != nil {
		return fate
	}
	return &authz.Refusal{Reason: authz.ReasonSessionEnded, Subject: c.up.route.named, Detail: "the connection to the machine was lost", Cause: err}
}

// shown is what the machine showed of itself, and what it let us in by.
type shown struct {
	hostKey, how string
	offer        offer
}

// handshake logs in to the machine's sshd over c as osUser.
func (u *upstream) handshake(ctx context.Context, c *carrier, sessionID string, key ssh.Signer, osUser string) (leg, shown, error) {
	limits := u.srv.cfg.Limits
	r := u.route.withUser(osUser)
	ctx, cancel := context.WithTimeoutCause(ctx, limits.ConnectTimeout, &authz.Refusal{Reason: authz.ReasonTimeout, Subject: r.named, Action: "the login to " + r.named})
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	c.expectFirst(limits.BannerTimeout, func() { fail(portRefused(r, errors.New("silence"))) })
	stop := context.AfterFunc(ctx, c.abandon)
	defer stop()

	logins := u.newLogins(ctx, r, key, sessionID)
	var seen shown
	config := u.clientConfig(r)
	config.HostKeyCallback = func(_ string, _ net.Addr, hostKey ssh.PublicKey) (err error) {
		fingerprint := ssh.FingerprintSHA256(hostKey)
		if seen.hostKey != "" { // new session keys in the middle of the connection, when ctx is long over
			return sameHostKey(seen.hostKey, fingerprint)
		}
		seen.hostKey = fingerprint
		seen.how, err = u.srv.cfg.Verifier.CheckNamed(ctx, r.target.Place(), otherNames(r.target), hostKey, u.console(r))
		return err
	}
	config.AuthCallback = logins.next
	conn, chans, reqs, err := ssh.NewClientConn(c, net.JoinHostPort(r.target.ID, strconv.Itoa(r.port)), config)
	switch {
	case err == nil && stop():
		seen.offer = logins.offer
		return leg{conn: conn, chans: chans, reqs: reqs}, seen, nil
	case err == nil:
		discardLeg(leg{conn: conn, chans: chans, reqs: reqs})
		return leg{}, seen, context.Cause(ctx)
	}
	return leg{}, seen, u.classify(ctx, c, r, err, logins)
}

// sameHostKey refuses a machine that shows another key when session keys are renewed: whom we logged in to is who we talk to.
func sameHostKey(before, now string) error {
	if now != before {
		return fmt.Errorf("the machine showed host key %s at the login and %s afterwards", before, now)
	}
	return nil
}

// clientConfig is all of the SSH client's configuration that does not belong to one attempt.
func (u *upstream) clientConfig(r route) *ssh.ClientConfig {
	algorithms := ssh.SupportedAlgorithms()
	config := &ssh.ClientConfig{
		Config:            ssh.Config{KeyExchanges: algorithms.KeyExchanges, Ciphers: algorithms.Ciphers, MACs: algorithms.MACs},
		User:              r.osUser,
		ClientVersion:     serverVersion,
		HostKeyAlgorithms: u.srv.cfg.Verifier.Algorithms(r.target.Place()),
		BannerCallback:    u.banner.hear,
	}
	if len(config.HostKeyAlgorithms) == 0 {
		config.HostKeyAlgorithms = algorithms.HostKeys
	}
	return config
}

// classify says in our words why a login to the machine failed.
func (u *upstream) classify(ctx context.Context, c *carrier, r route, err error, logins *logins) error {
	var refusal *authz.Refusal
	var ended *ssmproto.SessionEndedError
	lost, pushErr := c.readError(), logins.pushFailed()
	switch {
	case errors.As(err, &refusal): // of the host key, or a way to log in that was refused for good
		return fmt.Errorf("log in to %s: %w", r.target.ID, err)
	case errors.Is(lost, ssmproto.ErrConnectToPort), lost != nil && !c.heard() && ctx.Err() == nil:
		return portRefused(r, lost)
	case pushErr != nil && !logins.over && ctx.Err() == nil:
		return pushErr
	case errors.As(lost, &ended):
		return &authz.Refusal{Reason: authz.ReasonSessionEnded, Subject: r.named, Detail: ended.Output, Cause: err}
	case ctx.Err() != nil:
		return fmt.Errorf("log in to %s: %w (%w)", r.target.ID, context.Cause(ctx), err)
	case logins.refused, logins.over: // also where sshd has had enough of refusing and closed
		return logins.refusal(err)
	case lost != nil:
		return &authz.Refusal{Reason: authz.ReasonSessionEnded, Subject: r.named, Detail: "the machine closed the connection during login", Cause: err}
	}
	return &authz.Refusal{Reason: authz.ReasonUnsupportedTarget, Subject: r.named, Detail: "no common SSH algorithms, or no SSH server", Cause: err}
}

func portRefused(r route, cause error) error {
	return &authz.Refusal{Reason: authz.ReasonPortRefused, Subject: r.named, Action: "port " + strconv.Itoa(r.port), Cause: cause}
}

// otherNames are what a host CA may call a machine beside its id.
func otherNames(machine *authz.Instance) []string {
	if machine.PrivateDNS == "" {
		return nil
	}
	return []string{machine.PrivateDNS}
}

// console gives the way to the machine's boot text, where the cloud has one.
func (u *upstream) console(r route) func(context.Context) (string, error) {
	reader, ok := u.srv.cfg.Cloud.(ConsoleReader)
	if !ok {
		return nil
	}
	return func(ctx context.Context) (string, error) { return reader.ConsoleOutput(ctx, r.role, r.target) }
}

// ephemeralKey makes the key for the logins of one stay. It lives in memory only. Ed25519, because the machine's side takes nothing else but RSA.
func ephemeralKey() (ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return ssh.NewSignerFromSigner(private)
}

// discardLeg serves the streams of a connection that nobody uses until they end.
func discardLeg(l leg) {
	_ = l.conn.Close()
	done := make(chan struct{})
	go func() { defer close(done); ssh.DiscardRequests(l.reqs) }()
	for channel := range l.chans {
		_ = channel.Reject(ssh.ConnectionFailed, "closing")
	}
	<-done
}
