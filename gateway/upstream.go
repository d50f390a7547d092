package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/hostkeys"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// upstream is the way to one link for one stay: from the moment that policy has said yes to the login, or to the refusal.
//
// What can be done at the same time is: openUpstream begins StartSession as soon as policy has said yes, while the person still logs in; login, when the OS
// user is known, begins the key push, which runs beside StartSession and key exchange. Only the authentication waits for it. Where a warm link may serve, nothing is
// begun before the OS user is known: see reuse.
type upstream struct {
	srv    *Server
	visit  *visit
	route  route // as of openUpstream; login adds the OS user
	cancel context.CancelCauseFunc
	fresh  bool // a link that exists already will not do

	osUser chan string   // holds the OS user from login on
	over   chan struct{} // closed when link or err is set
	link   *link
	err    error
	taken  bool // the link has a holder

	tasks  sync.WaitGroup
	banner *banner
}

// openUpstream begins to open a link to the machine, or to find one that waits for the person. close must follow.
func openUpstream(v *visit) *upstream { return beginUpstream(v, false) }

// openFurther begins to open another link, beside the first of the stay. close must follow.
func openFurther(v *visit) *upstream { return beginUpstream(v, true) }

func beginUpstream(v *visit, fresh bool) *upstream {
	u := &upstream{
		srv: v.conn.srv, visit: v, route: v.current(), fresh: fresh, osUser: make(chan string, 1), over: make(chan struct{}), banner: newBanner(),
	}
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
		u.link, u.err = u.open(ctx)
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

// awaitUser gives the OS user when login has told it.
func (u *upstream) awaitUser(ctx context.Context) (string, error) {
	select {
	case osUser := <-u.osUser:
		u.osUser <- osUser // for whoever asks again
		return osUser, nil
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

// take gives the link, or why there is none. It is what the bridge calls at first need. The link is the caller's from then on.
func (u *upstream) take(ctx context.Context) (*link, error) {
	select {
	case <-u.over:
		u.taken = u.err == nil
		return u.link, u.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// close ends the attempt, and a link that nobody has taken, politely towards AWS, and waits for both.
func (u *upstream) close() {
	u.cancel(io.ErrClosedPipe)
	u.tasks.Wait()
	if u.err == nil && !u.taken {
		u.link.discard()
	}
}

// notice is what the machine's sshd said before login and could not be shown then, for stderr of the first session.
func (u *upstream) notice() string { return printableLines(u.banner.take()) }

// open does the three steps: session, OS user, SSH; or finds that a warm link spares them. A machine that showed a key of another type than those just learned
// gets a second try, in which a type that is known is negotiated. A machine without sshd may have Session Manager shells in its place.
func (u *upstream) open(ctx context.Context) (*link, error) {
	if none, err := u.expectsNoSSHD(ctx); err != nil {
		return nil, err
	} else if none {
		return u.withoutSSHD(ctx, errNoSSHD)
	}
	if !u.fresh && u.srv.warm.promising(u.route.identity.Person, u.route.target.Place()) {
		if _, err := u.awaitUser(ctx); err != nil {
			return nil, err
		}
		if warm := u.reuse(ctx); warm != nil {
			return warm, nil
		}
	}
	up, err := u.attempt(ctx)
	if errors.Is(err, hostkeys.ErrOtherKeyType) {
		u.visit.log.Info("trying again for a host key of a known type", "error", err)
		up, err = u.attempt(ctx)
	}
	if errors.Is(err, errNoSSHD) || reasonOf(err) == authz.ReasonPortRefused {
		return u.withoutSSHD(ctx, err)
	}
	return up, err
}

// beginnings are what is begun beside StartSession.
type beginnings struct {
	pushed  *pushing
	console *bootText
}

// attempt opens a session and logs in over it.
func (u *upstream) attempt(ctx context.Context) (*link, error) {
	ahead := beginnings{pushed: u.push(ctx), console: u.consoleOf(&u.route)}
	u.ahead(ctx, ahead.console)
	leave, err := u.turn(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	port, sessionID, err := u.srv.openPort(ctx, u.visit, u.route, true)
	if err != nil {
		return nil, err
	}
	c := &carrier{Conn: port}
	osUser, err := u.awaitUser(ctx)
	if err == nil && u.visit.current().obligations.NoSSHD { // for this user
		err = errNoSSHD
	}
	if err != nil {
		c.abandon()
		return nil, err
	}
	up, facts, err := u.handshake(ctx, c, ahead, sessionID, osUser)
	if err != nil {
		c.abandon()
		return nil, err
	}
	c.live.Store(true)
	u.visit.settleWay(facts.offer.way)
	facts.sessionID, facts.banner = sessionID, u.banner.whole()
	made := newLink(up, facts, c.endOf(u.route.named))
	u.srv.record(u.linkEvent(EventUpstreamOpened, made))
	u.visit.log.Info("logged in to the machine", "session", sessionID, "os_user", osUser, "by", facts.offer.way, "host_key", made.hostKeyID(), "host_key_how", facts.how)
	return made, nil
}

// linkEvent begins an event about a link.
func (u *upstream) linkEvent(what string, l *link) Event {
	e := u.visit.event(what)
	e.SessionID, e.HostKey, e.HostKeyHow = l.facts.sessionID, l.hostKeyID(), l.facts.how
	l.facts.offer.describe(&e)
	return e
}

// handshake logs in to the machine's sshd over c as osUser.
func (u *upstream) handshake(ctx context.Context, c *carrier, ahead beginnings, sessionID, osUser string) (bridge.Leg, linkFacts, error) {
	limits := u.srv.cfg.Limits
	r := u.route.withUser(osUser)
	ctx, cancel := context.WithTimeoutCause(ctx, limits.ConnectTimeout, &authz.Refusal{Reason: authz.ReasonTimeout, Subject: r.named, Action: "the login to " + r.named})
	defer cancel()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	c.expectFirst(u.sshdPatience(osUser), func() { fail(portRefused(r, errors.New("silence"))) })
	stop := context.AfterFunc(ctx, c.abandon)
	defer stop()

	logins := u.newLogins(ctx, r, sessionID, ahead.pushed)
	var facts linkFacts
	began := time.Now()
	config := u.clientConfig(r)
	config.HostKeyCallback = func(_ string, _ net.Addr, hostKey ssh.PublicKey) (err error) {
		if facts.hostKey != nil { // new session keys in the middle of the connection, when ctx is long over
			return sameHostKey(facts.hostKey, hostKey)
		}
		u.visit.stage(stepHostKey, began)
		facts.hostKey = hostKey
		facts.how, err = u.believe(ctx, r, hostKey, ahead.console)
		return err
	}
	config.AuthCallback = logins.next
	conn, chans, reqs, err := ssh.NewClientConn(c, net.JoinHostPort(r.target.ID, strconv.Itoa(r.port)), config)
	switch {
	case err == nil && stop():
		u.visit.stage(stepLogin, began)
		facts.offer = logins.offer
		return bridge.Leg{Conn: conn, Chans: chans, Reqs: reqs}, facts, nil
	case err == nil:
		bridge.Leg{Conn: conn, Chans: chans, Reqs: reqs}.Discard()
		return bridge.Leg{}, facts, context.Cause(ctx)
	}
	if err = u.classify(ctx, c, r, err, logins); reasonOf(err) == authz.ReasonKeyRefused {
		u.srv.pushed.drop(r.pushedFor()) // whatever the machine knows, it is not this key
	}
	return bridge.Leg{}, facts, err
}

// believe asks whether the machine may show this host key.
func (u *upstream) believe(ctx context.Context, r route, hostKey ssh.PublicKey, console *bootText) (how string, err error) {
	defer u.visit.stage(stepBelieve, time.Now())
	var read func(context.Context) (string, error)
	if console != nil {
		read = console.read
	}
	return u.srv.cfg.Verifier.CheckNamed(ctx, r.target.Place(), otherNames(r.target), hostKey, read)
}

// sameHostKey refuses a machine that shows another key when session keys are renewed: whom we logged in to is who we talk to.
func sameHostKey(before, now ssh.PublicKey) error {
	if !bytes.Equal(before.Marshal(), now.Marshal()) {
		return fmt.Errorf("the machine showed host key %s at the login and %s afterwards", ssh.FingerprintSHA256(before), ssh.FingerprintSHA256(now))
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
	return &authz.Refusal{Reason: authz.ReasonPortRefused, Subject: r.named, Action: portAction(r.port), Cause: cause}
}

func portAction(port int) string { return "port " + strconv.Itoa(port) }

// otherNames are what a host CA may call a machine beside its id.
func otherNames(machine *authz.Instance) []string {
	if machine.PrivateDNS == "" {
		return nil
	}
	return []string{machine.PrivateDNS}
}
