package gateway

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// modeShell is how a stay is carried on a machine without sshd, for the audit.
const modeShell = "session-manager-shell"

// errNoSSHD says that there is no sshd, as is known without trying its port.
var errNoSSHD = errors.New("there is no sshd, by policy or by what was seen a moment ago")

const (
	// shellPatience is how long a login waits for sshd's first byte where a shell may stand in for it. The agent says nothing of a port on which nobody listens.
	shellPatience = 4 * time.Second
	// silenceKept is how long a machine counts as one without sshd after that.
	silenceKept = time.Minute
	// silentMachines bounds for how many machines that is known.
	silentMachines = 1024
)

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

// standsIn reports whether a shell may stand in for sshd in a login as osUser.
func (u *upstream) standsIn(osUser string) bool {
	_, able := u.srv.cfg.Cloud.(ShellStarter)
	r := u.visit.current().withUser(osUser)
	if !able || !u.srv.cfg.SessionShell || osUser != u.srv.cfg.SessionUser {
		return false
	}
	_, err := u.srv.judge(u.srv.rules.Load(), &r, authz.ActionSessionShell, "", 0)
	return err == nil
}

// expectsNoSSHD reports whether the port is not worth trying: policy says so, or the machine's sshd has just been silent and this login is one for a shell. It
// waits for the OS user only where it matters.
func (u *upstream) expectsNoSSHD(ctx context.Context) (bool, error) {
	if u.route.obligations.NoSSHD || u.visit.shell.Load() {
		return true, nil
	}
	since, noted := u.srv.silent.Get(u.route.target.Place())
	if !noted || time.Since(since) > silenceKept {
		return false, nil
	}
	osUser, err := u.awaitUser(ctx)
	return err == nil && u.standsIn(osUser), err
}

// sshdPatience is how long a login waits for the first byte.
func (u *upstream) sshdPatience(osUser string) time.Duration {
	patience := u.srv.cfg.Limits.BannerTimeout
	if u.standsIn(osUser) {
		patience = min(patience, shellPatience)
	}
	return patience
}

// withoutSSHD gives what stands in for the machine's sshd where that does not answer: cause says so. Where it may not, or nobody wants it, cause stays.
func (u *upstream) withoutSSHD(ctx context.Context, cause error) (*link, error) {
	osUser, err := u.awaitUser(ctx)
	if err != nil {
		return nil, err
	}
	if !u.standsIn(u.srv.cfg.SessionUser) {
		return nil, u.noShell(cause)
	}
	r := u.visit.current()
	if osUser != u.srv.cfg.SessionUser {
		return nil, &authz.Refusal{
			Reason: authz.ReasonPortRefused, Subject: r.named, Action: portAction(r.port),
			Detail: "as " + u.srv.cfg.SessionUser + " you get a Session Manager shell instead", Cause: cause,
		}
	}
	if err := u.visit.Permit(authz.ActionSessionShell, "", 0); err != nil {
		return nil, err
	}
	starter, able := u.srv.cfg.Cloud.(ShellStarter)
	if !able { // cannot be: standsIn has looked
		return nil, cause
	}
	if !errors.Is(cause, errNoSSHD) {
		u.srv.silent.Add(r.target.Place(), time.Now())
	}
	u.visit.shell.Store(true)
	u.visit.log.Info("no sshd: Session Manager shells stand in for it", "cause", cause)
	conn := newShellConn(u.visit, starter)
	return newLink(bridge.Leg{Conn: conn, Chans: conn.chans, Reqs: conn.reqs}, linkFacts{}, func(err error) error { return err }), nil
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
