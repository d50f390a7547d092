package gateway

import (
	"context"
	"errors"
	"io"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// modeShell is how a stay is carried on a machine without sshd, for the audit.
const modeShell = "session-manager-shell"

// errNoSSHD says that policy knows of a machine without sshd: its port is not even tried.
var errNoSSHD = errors.New("policy says that there is no sshd")

// ShellSession is a Session Manager session with a shell or a command. *ssmproto.Shell satisfies it, and says what each method does.
type ShellSession interface {
	io.ReadWriter
	Stderr() io.Reader
	Resize(size ssmproto.Size) error
	Signal(code ssmproto.ControlCode) error
	ExitCode() (code int, known bool)
	Close() error
	CloseNow() error
}

var _ ShellSession = (*ssmproto.Shell)(nil)

// withoutSSHD gives what stands in for the machine's sshd where that does not answer: cause says so. Where it may not, or nobody wants it, cause stays.
func (u *upstream) withoutSSHD(ctx context.Context, cause error) (*link, error) {
	starter, able := u.srv.cfg.Cloud.(ShellStarter)
	if !able || !u.srv.cfg.SessionShell {
		return nil, u.noShell(cause)
	}
	osUser, err := u.awaitUser(ctx)
	if err != nil {
		return nil, err
	}
	r := u.visit.current().withUser(u.srv.cfg.SessionUser)
	if _, err := u.srv.judge(u.srv.rules.Load(), &r, authz.ActionSessionShell, "", 0); err != nil {
		return nil, u.noShell(cause)
	}
	if osUser != r.osUser {
		return nil, &authz.Refusal{
			Reason: authz.ReasonPortRefused, Subject: r.named, Action: portAction(r.port),
			Detail: "as " + r.osUser + " you get a Session Manager shell instead", Cause: cause,
		}
	}
	if err := u.visit.permit(authz.ActionSessionShell, "", 0); err != nil {
		return nil, err
	}
	u.visit.shell.Store(true)
	u.visit.log.Info("no sshd: Session Manager shells stand in for it", "cause", cause)
	conn := newShellConn(u.visit, starter)
	return newLink(leg{conn: conn, chans: conn.chans, reqs: conn.reqs}, linkFacts{}, func(err error) error { return err }), nil
}

// noShell is why there is nothing at all: in words, where policy said that there is no sshd.
func (u *upstream) noShell(cause error) error {
	if errors.Is(cause, errNoSSHD) {
		r := u.visit.current()
		return &authz.Refusal{Reason: authz.ReasonNotPermitted, Subject: r.named, Action: string(authz.ActionSessionShell), Cause: cause}
	}
	return cause
}

// needsSSHD refuses what a Session Manager shell cannot do.
func (v *visit) needsSSHD(action authz.Action) error {
	if !v.shell.Load() {
		return nil
	}
	switch action {
	case authz.ActionSFTP, authz.ActionForwardLocal, authz.ActionForwardRemote, authz.ActionAgentForward, authz.ActionX11:
		return &authz.Refusal{Reason: authz.ReasonNoSSHD, Subject: v.current().named, Action: string(action)}
	}
	return nil
}
