package gateway

import (
	"context"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Cloud is the three questions the gateway asks AWS. Every answer that is no is an *authz.Refusal.
// gateway/awscloud satisfies it without importing this package.
type Cloud interface {
	// Resolve finds the one machine that name means: an id, a Name tag, tag:value, a private address or DNS name, an alias, each with optional
	// .region and .account suffixes. It describes, and changes nothing. A name that means several machines is refused with candidates.
	Resolve(ctx context.Context, name string) (*authz.Instance, error)
	// PushKey lets key in as osUser for 60 seconds (EC2 Instance Connect SendSSHPublicKey), as role.
	PushKey(ctx context.Context, role authz.Role, on *authz.Instance, osUser string, key ssh.PublicKey) error
	// StartPort opens a Session Manager session to a port of the machine, as role. reason (at most 256 characters) shows in CloudTrail.
	StartPort(ctx context.Context, role authz.Role, on *authz.Instance, port int, reason string) (ssmproto.Grant, error)
}

// ConsoleReader is an add-on to Cloud: the text a machine printed at boot, where cloud-init shows its host keys.
type ConsoleReader interface {
	// ConsoleOutput gives the decoded console text (EC2 GetConsoleOutput), as role. Empty text and no error when there is none.
	ConsoleOutput(ctx context.Context, role authz.Role, on *authz.Instance) (string, error)
}

// RoleChecker is an add-on to Cloud: whether a person's role is still to be had, asked before a session that was opened earlier serves again.
type RoleChecker interface {
	// CheckRole makes sure of credentials of role for on: those that are held and have not expired, or new ones from STS.
	CheckRole(ctx context.Context, role authz.Role, on *authz.Instance) error
}

// ShellStarter is an add-on to Cloud: sessions that need no sshd.
type ShellStarter interface {
	// StartShell opens the Session Manager shell of the machine, as role. With a command it opens a session that runs it: on a terminal
	// (AWS-StartInteractiveCommand), or without terminal and input (AWS-StartNonInteractiveCommand). reason is as for StartPort.
	StartShell(ctx context.Context, role authz.Role, on *authz.Instance, command string, terminal bool, reason string) (ssmproto.Grant, error)
}

// Lister is an add-on to Cloud: what there is to reach.
type Lister interface {
	// List gives the machines of all configured accounts and regions, sorted by name.
	List(ctx context.Context) ([]*authz.Instance, error)
}
