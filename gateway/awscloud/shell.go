package awscloud

import (
	"context"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// commandParameter is what AWS's documents for commands call the command.
const commandParameter = "command"

// StartShell opens the account's Session Manager shell on the machine, as role; with a command, a session that runs it on a terminal (InteractiveDocument) or
// without terminal and input (CommandDocument). The grant is like StartPort's.
func (c *Cloud) StartShell(
	ctx context.Context, role authz.Role, on *authz.Instance, command string, terminal bool, reason string,
) (ssmproto.Grant, error) {
	purpose := Purpose{Reason: reason}
	if command != "" {
		purpose.Document, purpose.Parameters = CommandDocument, map[string][]string{commandParameter: {command}}
		if terminal {
			purpose.Document = InteractiveDocument
		}
	}
	return c.StartSession(ctx, role, on, purpose)
}
