package gateway

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/hostkeys"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Config is what a Server is made of. The first group is required; in the second the zero value works.
type Config struct {
	// Cloud reaches AWS. Where it also implements ConsoleReader and Lister, host keys are looked up in console texts and `ssh gateway ls` lists machines.
	Cloud Cloud
	// Directory knows people by their keys, Policy judges what they may do. Both can be replaced while running: Server.Reload.
	Directory Directory
	Policy    Policy
	// HostKeys are the gateway's own keys, shown on the outer connection, at most one of each type.
	HostKeys []ssh.Signer
	// Issuer makes the keys under which the gateway stands in for machines.
	Issuer Issuer
	// Verifier decides whether to believe the key that a machine shows.
	Verifier Verifier

	// Names are what clients call the gateway itself. Where Issuer has a CA it shows a host certificate for them beside HostKeys, so that the one line about
	// the CA in known_hosts covers the way to the machines, too. Default: no certificate.
	Names []string
	// Limits bounds everything that waits, queues or counts.
	Limits Limits
	// Ciphers are those that clients may choose from, by the names of RFC 4253 section 6.3 and PROTOCOL of OpenSSH. Their order is the client's (section 7.1).
	// Default: ssh.SupportedAlgorithms.
	Ciphers []string
	// SSHPorts are the ports of a machine on which an sshd is expected, so that a jump to them is an SSH login and not a plain port. Default: 22.
	SSHPorts []int
	// PassthroughOSUser is the user of the machine for whom a person's key is pushed in passthrough, where the login to the gateway names none who may: it is the
	// person's own name, no name of a user, or one whom policy does not let through. Default: none, and such a jump is refused.
	PassthroughOSUser string
	// CutExpired ends connections when the key or certificate of their login expires. Off, as in sshd, the validity counts at login only, and certificates
	// of a few minutes do for sessions of a day. Revocation cuts in either case, with Reload.
	CutExpired bool
	// KeepWarm is how long a session on a machine, logged in, waits for the same person's next connection to the same machine as the same user after the client
	// has gone. Inspected jumps and direct logins only. 0: it does not wait.
	KeepWarm time.Duration
	// NoEarlyAnswers lets every request of an SFTP client wait for the machine's own answer. Small files are slower by it, see package stripe.
	NoEarlyAnswers bool
	// ProgressAfter is how long a session waits for its machine before it is told so on stderr. Default: 2 s.
	ProgressAfter time.Duration
	// UserCA signs certificates for logins to machines that trust it, where Instance Connect does not lead in and policy permits certificate-login. Default: none.
	UserCA *UserCA
	// ForwardedAgent lets the gateway log in to a machine by the agent that a person forwards, where nothing else leads in and policy permits agent-login.
	ForwardedAgent bool
	// SessionShell lets Session Manager shells stand in for an sshd that does not answer, where policy permits session-manager-shell. Cloud has to be a ShellStarter.
	SessionShell bool
	// SessionUser is the OS user as whom these shells run, as the preferences of Session Manager have it: whoever logs in as another does not get one.
	// Default: ssm-user.
	SessionUser string
	// AccountAliases maps account ids to the names that people's roles are configured under.
	AccountAliases map[string]string
	// DialPort turns a grant into a connection to the machine's port. peerFirst: the machine's side speaks first, as sshd does, and our first bytes are held
	// until it has, because the agent may lose what arrives before it has dialed. Default: ssmproto.Dial.
	DialPort func(ctx context.Context, grant ssmproto.Grant, peerFirst bool) (net.Conn, error)
	// DialShell turns a grant into a session with a shell or a command. Default: ssmproto.DialShell.
	DialShell func(ctx context.Context, grant ssmproto.Grant) (ShellSession, error)
	// Audit receives what happens. Default: nowhere.
	Audit AuditSink
	// Log receives causes and faults. Default: nowhere.
	Log *slog.Logger
}

// Directory knows people. *authz.Directory satisfies it; all methods are pure and quick.
type Directory interface {
	// Candidate reports whether key could be somebody's. It is asked about keys that nobody has proven.
	Candidate(key ssh.PublicKey, now time.Time) bool
	// Identify says whose key it is, once proven, or refuses with an *authz.Refusal.
	Identify(key ssh.PublicKey, source netip.AddrPort, now time.Time) (*authz.Identity, error)
	// TouchWaived reports whether a FIDO key need not be touched.
	TouchWaived(key ssh.PublicKey) bool
	// RoleFor gives the IAM role of a person in an account; Assume gives the one that a policy names instead.
	RoleFor(id *authz.Identity, accountAlias, accountID string) (authz.Role, error)
	Assume(id *authz.Identity, arn, accountAlias, accountID string) authz.Role
	// StillValid tells whether a person identified earlier would be identified again, at a time.
	StillValid(id *authz.Identity, now time.Time) error
}

// Policy judges. *authz.Policy satisfies it.
type Policy interface {
	Decide(req authz.Request) authz.Decision
}

// Issuer makes host keys for the machines that the gateway stands in for. *hostkeys.Issuer satisfies it.
type Issuer interface {
	// Signer gives a host key certified for exactly these names, and the same key bare for clients that know no CA. certified is nil without a CA.
	Signer(names ...string) (certified, plain ssh.Signer, err error)
}

// Verifier believes machines, or not. *hostkeys.Verifier satisfies it.
type Verifier interface {
	// CheckNamed judges the key that the machine at place (authz.Instance.Place) shows; names are what a host CA may call it beside its id. console reads the
	// text that the machine printed at boot; it may be nil. how says why the key is believed. A key that is not believed is an *authz.Refusal.
	CheckNamed(ctx context.Context, place string, names []string, key ssh.PublicKey, console func(context.Context) (string, error)) (how string, err error)
	// WantsConsole foretells whether CheckNamed is likely to read the console text, so that it can be read beforehand.
	WantsConsole(ctx context.Context, place string) bool
	// Algorithms gives the host key algorithms to negotiate, so that a machine shows the type of key that is pinned. nil: no preference.
	Algorithms(place string) []string
}

// Who is meant by these interfaces.
var (
	_ Directory = (*authz.Directory)(nil)
	_ Policy    = (*authz.Policy)(nil)
	_ Issuer    = (*hostkeys.Issuer)(nil)
	_ Verifier  = (*hostkeys.Verifier)(nil)
)

// validate reports everything that is missing.
func (c *Config) validate() error {
	var findings []error
	for _, required := range []struct {
		present bool
		name    string
	}{
		{c.Cloud != nil, "Cloud"},
		{c.Directory != nil, "Directory"},
		{c.Policy != nil, "Policy"},
		{len(c.HostKeys) > 0, "HostKeys"},
		{c.Issuer != nil, "Issuer"},
		{c.Verifier != nil, "Verifier"},
	} {
		if !required.present {
			findings = append(findings, errors.New("gateway: Config."+required.name+" is required"))
		}
	}
	return errors.Join(findings...)
}

// withDefaults fills what was left out.
func (c Config) withDefaults() Config {
	c.Limits = c.Limits.WithDefaults()
	if len(c.Ciphers) == 0 {
		c.Ciphers = ssh.SupportedAlgorithms().Ciphers
	}
	if len(c.SSHPorts) == 0 {
		c.SSHPorts = []int{22}
	}
	if c.ProgressAfter <= 0 {
		c.ProgressAfter = 2 * time.Second
	}
	if c.Audit == nil {
		c.Audit = discardAudit{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.DialPort == nil {
		c.DialPort = dialPort(c.Log)
	}
	if c.SessionUser == "" {
		c.SessionUser = "ssm-user"
	}
	if c.DialShell == nil {
		log, limits := c.Log, c.Limits
		c.DialShell = func(ctx context.Context, grant ssmproto.Grant) (ShellSession, error) {
			return ssmproto.DialShell(ctx, grant, &ssmproto.Options{Logger: log, WaitForPeer: true, PeerCheck: limits.Keepalive, PeerTimeout: limits.Silence()})
		}
	}
	return c
}
