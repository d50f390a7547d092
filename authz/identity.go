package authz

import (
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
)

// Method says how a person proved who they are.
type Method string

// The ways to prove it.
const (
	MethodPublicKey   Method = "publickey"
	MethodCertificate Method = "certificate"
	MethodSecurityKey Method = "security-key" // a FIDO key; the touch is enforced by x/crypto, the PIN cannot be
)

// Identity is a person who has proven a key. Only Directory.Identify makes one, and only a verified signature may lead there.
// It is immutable: target and OS user are decided beside it, never inside.
type Identity struct {
	Person      string            // the configured name: [\w+=,.@-]{2,64}, fit for RoleSessionName and SourceIdentity
	Groups      []string          // sorted
	Tags        map[string]string // session tags for STS
	Method      Method
	Fingerprint string        // SHA256:… of the key that signed
	KeyType     string        // ssh-ed25519, sk-ssh-ed25519@openssh.com, …
	Certificate *Certificate  // nil for plain keys
	Grants      ChannelGrants // what key options and certificate extensions leave of a session
	Source      netip.AddrPort

	proof       ssh.PublicKey // the key or certificate as shown, so that StillValid can judge it again; nil for a hypothetical identity
	touchWaived bool          // a FIDO key that need not be touched
}

// touched reports whether a person had to be there: a FIDO key signed, and its touch was demanded. Policies read it as context.mfa. The PIN is not
// part of it, since x/crypto/ssh cannot demand one.
func (i *Identity) touched() bool { return strings.HasPrefix(i.KeyType, "sk-") && !i.touchWaived }

// Certificate is what the audit wants to know of a user certificate.
type Certificate struct {
	KeyID       string // free text of the CA: escape before showing
	Serial      uint64
	CA          string // SHA256:… of the signing key
	Principals  []string
	ValidBefore time.Time // zero: forever
}

// ChannelGrants is what authorized_keys options and certificate extensions allow (sshd(8), PROTOCOL.certkeys).
// For plain keys everything is on unless removed, for certificates everything is off unless granted.
type ChannelGrants struct {
	PTY             bool
	PortForwarding  bool
	AgentForwarding bool
	X11Forwarding   bool
	ForceCommand    string   // replaces shell, exec and subsystem; empty: none
	PermitOpen      []string // host:port patterns for direct-tcpip; nil: no restriction
	PermitListen    []string // the same for tcpip-forward
}

// Role is an AWS role assumed for one person. The zero Role means ambient credentials (one person, own laptop).
type Role struct {
	ARN            string
	SessionName    string // the person, so that CloudTrail and SSM history name the human
	SourceIdentity string // the person; cannot be changed later and survives chaining
	ExternalID     string
	Tags           map[string]string
}

// Action is what a person wants to do on a machine, in the words of the Cedar schema (schema.cedarschema).
type Action string

// The actions. Connect is asked once, when a target is first named; the others for each channel request.
const (
	ActionConnect       Action = "connect"
	ActionShell         Action = "shell"
	ActionExec          Action = "exec"
	ActionSFTP          Action = "sftp"
	ActionForwardLocal  Action = "forward-local"
	ActionForwardRemote Action = "forward-remote"
	ActionAgentForward  Action = "agent-forward"
	ActionX11           Action = "x11"

	// The fallbacks, which the gateway asks about by itself. IAM does not see the first two, so the built-in policy permits none of them.
	ActionCertificateLogin Action = "certificate-login"     // log in to the machine by a certificate of the gateway's user CA
	ActionAgentLogin       Action = "agent-login"           // log in to the machine by the person's forwarded agent
	ActionSessionShell     Action = "session-manager-shell" // a Session Manager shell where no sshd answers
)

// Request is one question to the policy.
type Request struct {
	Identity *Identity
	Instance *Instance
	OSUser   string // empty only with ActionConnect, while it is not known yet: see Policy.Decide
	Action   Action
	DestHost string // for forwards
	DestPort int    // for forwards
	Purpose  string // why, in the person's words (a ticket): context.reason in policies; empty: none was given
	Now      time.Time
}

// Decision is the answer. The zero Decision is a deny.
type Decision struct {
	Allow       bool
	Reason      Reason   // why not; empty when allowed
	Policies    []string // @id of the policies that decided
	Message     string   // @message of the forbidding policy, for the person
	Obligations Obligations
}

// Obligations are the annotations of the permits that matched; where several did, the strictest wins.
type Obligations struct {
	Role       string        // @role: the IAM role to assume instead of the mapped one
	RoleOpen   bool          // only where the OS user was not known: Role depends on the user, so do nothing as any role before asking again
	MaxSession time.Duration // @max_session; 0: none
	Record     bool          // @record("required")
	InnerAuth  InnerAuth     // @inner_auth
	Mode       Mode          // @mode
	Login      Login         // @login
	NoSSHD     bool          // @sshd("none"): do not look for one
}

// InnerAuth says what the inner login of a jump demands.
type InnerAuth string

// InnerAuthKey (the default) demands a second proof of the same identity; InnerAuthConnection takes the proof of the outer login.
const (
	InnerAuthKey        InnerAuth = ""
	InnerAuthConnection InnerAuth = "connection"
)

// Mode says how the gateway joins client and machine.
type Mode string

// ModeInspected (the default) terminates SSH at the gateway; ModePassthrough carries bytes only.
const (
	ModeInspected   Mode = ""
	ModePassthrough Mode = "passthrough"
)

// Login is a way for the gateway to log in to a machine's sshd.
type Login string

// LoginAny (the default) is each of the others in this order, as far as machine, configuration and policy have them; another value is that one alone.
const (
	LoginAny             Login = ""
	LoginInstanceConnect Login = "instance-connect" // a key pushed by EC2 Instance Connect
	LoginCertificate     Login = "certificate"      // a certificate of the gateway's user CA
	LoginAgent           Login = "agent"            // the person's forwarded agent
)
