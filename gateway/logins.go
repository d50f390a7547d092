package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// logins is what proves to a machine's sshd that the gateway may log in as somebody, one way after the other in one SSH handshake: a key pushed by EC2
// Instance Connect, a certificate of the gateway's user CA, the person's own agent. The next way is for what the machine does not know or cannot have. A no of
// IAM ends the login: the next way would go around the fence.
type logins struct {
	up        *upstream
	ctx       context.Context // of the handshake; the library's callback carries none
	route     route
	sessionID string
	pushed    *pushing // nil where Instance Connect is not among the ways

	left    []authz.Login // ways not yet begun
	signers []ssh.Signer  // of the present way, not yet offered
	offer   offer         // what the machine is being offered, and in the end has taken
	absent  []string      // in words, why other ways were none from the beginning
	tried   []string      // in words, what the machine was offered
	missed  []string      // in words, what it could not be offered
	cause   error         // why the last of missed could not be
	refused bool          // something that was offered
	over    bool          // there was nothing left to offer
}

// offer is one key of one way. The zero offer is that of a machine which wants none.
type offer struct {
	way    authz.Login
	key    ssh.PublicKey
	serial uint64 // of a certificate
}

// describe fills in by what the gateway has logged in, as sshd logs it: a certificate's fingerprint is that of its key.
func (o offer) describe(e *Event) {
	key := o.key
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	if key == nil {
		return
	}
	e.LoginWay, e.LoginKey, e.IssuedSerial = string(o.way), ssh.FingerprintSHA256(key), o.serial
	if o.way == authz.LoginInstanceConnect {
		e.PushedKey = e.LoginKey
	}
}

// newLogins chooses the ways for a machine. r has the OS user, and pushed is the key push for it.
func (u *upstream) newLogins(ctx context.Context, r route, sessionID string, pushed *pushing) *logins {
	l := &logins{up: u, ctx: ctx, route: r, sessionID: sessionID}
	l.left, l.absent = u.visit.ways()
	if slices.Contains(l.left, authz.LoginInstanceConnect) {
		if l.pushed = pushed; pushed.stale() {
			l.pushed = u.push(ctx)
		}
	}
	return l
}

// ways lists the ways into the machine that there may be, in the order to try them; once one has led in it is the only one. absent says why others are none.
func (v *visit) ways() (ways []authz.Login, absent []string) {
	r, cfg := v.current(), v.conn.srv.cfg
	v.mu.Lock()
	known := v.way
	v.mu.Unlock()
	if known != authz.LoginAny {
		return []authz.Login{known}, nil
	}
	for _, candidate := range []struct {
		way   authz.Login
		there bool
		why   string
	}{
		{authz.LoginInstanceConnect, !r.target.IsManagedNode(), "EC2 Instance Connect knows no hybrid nodes"},
		{authz.LoginCertificate, cfg.UserCA != nil, "the gateway has no user CA"},
		{authz.LoginAgent, cfg.ForwardedAgent, "the gateway does not log in by forwarded agents"},
	} {
		switch demanded := r.obligations.Login; {
		case demanded != authz.LoginAny && demanded != candidate.way:
		case candidate.there:
			ways = append(ways, candidate.way)
		default:
			absent = append(absent, candidate.why)
		}
	}
	return ways, absent
}

// settleWay notes the way that has led in: the further lanes of a stay take it at once.
func (v *visit) settleWay(way authz.Login) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.way = way
}

// next gives the method that follows one the machine did not take. It is an ssh.ClientConfig.AuthCallback: no method and no error means that there is none.
func (l *logins) next(now *ssh.ClientAuthContext) (ssh.AuthMethod, error) {
	l.up.banner.end() // the library asks for the first method when "none" has been answered
	l.refused = len(l.tried) > 0
	if !slices.Contains(now.AllowedMethods, "publickey") {
		l.left, l.signers = nil, nil
		l.miss("its sshd takes no public keys", nil)
	}
	for {
		if len(l.signers) > 0 {
			signer := l.signers[0]
			l.signers = l.signers[1:]
			l.offer.key = signer.PublicKey()
			return ssh.PublicKeys(signer), nil
		}
		if len(l.left) == 0 {
			l.over = true
			return nil, nil //nolint:nilnil // as the library has it
		}
		way := l.left[0]
		l.left = l.left[1:]
		if err := l.begin(way); err != nil {
			return nil, err
		}
	}
}

// begin makes what a way has to offer. A way that cannot be taken here offers nothing; an error ends the login.
func (l *logins) begin(way authz.Login) error {
	l.offer = offer{way: way}
	switch way {
	case authz.LoginInstanceConnect:
		return l.byInstanceConnect()
	case authz.LoginCertificate:
		return l.byCertificate()
	}
	return l.byAgent()
}

// byInstanceConnect offers exactly one key: for each, the machine's helper takes seconds, and each counts against MaxAuthTries.
func (l *logins) byInstanceConnect() error {
	key, err := l.pushed.wait(l.ctx)
	var refusal *authz.Refusal
	switch {
	case err == nil:
		l.tries("a key pushed by EC2 Instance Connect", key)
		return nil
	case errors.As(err, &refusal) && (refusal.Reason == authz.ReasonUnsupportedTarget || refusal.Reason == authz.ReasonKeyRefused):
		l.miss(orElse(refusal.Detail, "EC2 Instance Connect does not serve this machine"), err)
		return nil
	}
	return err
}

// byCertificate offers a certificate made for this login.
func (l *logins) byCertificate() error {
	if err := l.up.visit.Permit(authz.ActionCertificateLogin, "", 0); err != nil {
		l.miss("policy does not permit "+string(authz.ActionCertificateLogin), err)
		return nil
	}
	id := l.route.identity
	keyID := fmt.Sprintf("%s session %s ref %s", id.Person, l.sessionID, l.up.visit.ref)
	key, err := ephemeralKey()
	if err != nil {
		return err
	}
	signer, cert, err := l.up.srv.cfg.UserCA.certify(key, l.route.osUser, printable(keyID, auditTextLimit), id.Grants, time.Now())
	if err != nil {
		return err
	}
	l.offer.serial = cert.Serial
	l.tries("a certificate of the gateway's user CA", signer)
	return nil
}

// byAgent offers some keys of the person's agent.
func (l *logins) byAgent() error {
	if err := l.up.visit.Permit(authz.ActionAgentLogin, "", 0); err != nil {
		l.miss("policy does not permit "+string(authz.ActionAgentLogin), err)
		return nil
	}
	signers, err := l.up.agentSigners(l.ctx, l.route.identity)
	var silent *agentError
	switch {
	case errors.As(err, &silent):
		l.miss(silent.words, err)
		return nil
	case err != nil:
		return err
	}
	l.tries("keys of your agent", signers...)
	return nil
}

func (l *logins) tries(what string, signers ...ssh.Signer) {
	l.tried = append(l.tried, what)
	l.signers = signers
}

func (l *logins) miss(why string, err error) {
	l.missed = append(l.missed, why)
	l.cause = err
}

// pushFailed is the error of a key push that is over; nil otherwise.
func (l *logins) pushFailed() error {
	if l.pushed == nil {
		return nil
	}
	return l.pushed.failed()
}

// refusal says that no way led in, and names them.
func (l *logins) refusal(cause error) error {
	if len(l.tried) > 0 {
		detail := strings.Join(append([]string{"tried " + strings.Join(l.tried, ", ")}, l.missed...), "; ")
		return &authz.Refusal{Reason: authz.ReasonKeyRefused, Subject: l.route.osUser, Detail: detail, Cause: cause}
	}
	all := append(l.missed[:len(l.missed):len(l.missed)], l.absent...)
	if len(all) == 1 && l.cause != nil {
		return l.cause
	}
	return &authz.Refusal{Reason: authz.ReasonUnsupportedTarget, Subject: l.route.named, Detail: strings.Join(all, "; "), Cause: errors.Join(cause, l.cause)}
}
