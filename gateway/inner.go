package gateway

import (
	"context"
	"fmt"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// inner answers a jump as the SSH server of the machine: it shows a host certificate for it, learns the OS user, demands the same person again, and joins
// what comes with the machine's own sshd. Opening the session to the machine begins at once, beside the person's login.
func (v *visit) inner(channel ssh.NewChannel, outer *proof) error {
	r := v.current()
	hostKeys, err := v.conn.hostKeysFor(&r)
	if err != nil {
		refuse(channel, ssh.ConnectionFailed, v.text(err))
		return err
	}
	stream, reqs, err := channel.Accept()
	if err != nil {
		return fmt.Errorf("accept the jump: %w", err)
	}
	raw := newChanConn(stream, reqs, v.conn.raw.LocalAddr(), v.conn.raw.RemoteAddr())
	defer func() { _ = raw.Close() }()

	attempt := &attempt{visit: v}
	defer attempt.close()
	if !r.obligations.RoleOpen { // else nothing may be done as any role before the OS user is known
		attempt.up = openUpstream(v)
	}
	d := &doorman{ctx: v.ctx, srv: v.conn.srv, source: v.conn.source, explain: v.text}
	d.admit = func(ctx context.Context, p *proof) error {
		if err := attempt.admit(outer, p); err != nil {
			return err
		}
		d.relayBanner(ctx, v, attempt.up)
		return nil
	}
	if r.obligations.InnerAuth == authz.InnerAuthConnection {
		d.waived = outer.identity
	}
	client, p, err := d.handshake(raw, v.conn.srv.cfg.Limits, hostKeys)
	if err != nil {
		e := v.event(EventTargetRefused)
		withCause(&e, err)
		v.conn.srv.record(e)
		return err
	}
	v.stage(stepPerson, v.began)
	v.log.Info("logged in through the jump", "person", p.identity.Person, "os_user", p.user, "key", p.identity.Fingerprint)
	return v.join(client, attempt.up)
}

// hostKeysFor makes the keys to show for a machine: the certificate first, then the bare key for clients that know no CA.
func (c *conn) hostKeysFor(r *route) ([]ssh.Signer, error) {
	certified, plain, err := c.srv.cfg.Issuer.Signer(r.hostNames()...)
	if err != nil {
		return nil, fmt.Errorf("host key for %s: %w", r.named, err)
	}
	keys := []ssh.Signer{plain}
	if certified != nil {
		keys = []ssh.Signer{certified, plain}
	}
	return keys, nil
}

// attempt is one inner login and the session that was opened ahead of it.
type attempt struct {
	visit *visit
	up    *upstream // nil while there is none
}

func (a *attempt) close() {
	if a.up != nil {
		a.up.close()
	}
}

// admit accepts an inner login by the person of the outer one as an OS user that policy allows, and lets the upstream go on with it.
func (a *attempt) admit(outer, p *proof) error {
	if err := samePerson(outer.identity, p.identity); err != nil {
		return err
	}
	osUser, err := authz.ParseOSUser(p.user)
	if err != nil {
		return err
	}
	if p.key == nil { // without a proof of its own, the login may only be what policy waives for this very user
		if err := a.visit.mayWaive(osUser); err != nil {
			return err
		}
	}
	before := a.visit.current()
	if err := a.visit.settle(p, osUser); err != nil {
		return err
	}
	now := a.visit.current()
	if a.up == nil || now.role.ARN != before.role.ARN { // the OS user changed the role: the session opened ahead is the wrong one
		a.close()
		a.up = openUpstream(a.visit)
	}
	p.route = &now
	a.up.login(osUser)
	return nil
}

// mayWaive asks whether the outer proof does for this OS user: with the user known the policy may be stricter than without.
func (v *visit) mayWaive(osUser string) error {
	entered, err := v.conn.srv.enter(v.conn.srv.rules.Load(), v.current().withUser(osUser))
	if err == nil && entered.obligations.InnerAuth != authz.InnerAuthConnection {
		err = ssh.ErrNoAuth // not a refusal: the client goes on to offer its keys
	}
	return err
}
