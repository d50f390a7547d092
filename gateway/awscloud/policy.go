package awscloud

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// The calls that are made as a person's role.
const (
	actionStartSession     = "ssm:StartSession"
	actionResumeSession    = "ssm:ResumeSession"
	actionTerminateSession = "ssm:TerminateSession"
	actionPushKey          = "ec2-instance-connect:SendSSHPublicKey"
	actionConsoleOutput    = "ec2:GetConsoleOutput"
	actionDataKey          = "kms:GenerateDataKey"
)

// statement is one statement of an IAM policy, with only what we need.
type statement struct {
	Effect    string
	Action    []string
	Resource  []string
	Condition map[string]map[string]string `json:",omitempty"`
}

// sessionPolicy narrows a role session to one machine: its intersection with the role's own policies is what remains. Resume and Terminate stay open
// (the role's own conditions decide), because the session id is not known yet and the form of its ARN for role sessions is not documented well enough to bet on.
// ssmmessages:OpenDataChannel is what AWS's policy examples grant beside StartSession.
// document is one more that may be used; empty for none. Such a session may be encrypted, with a key that is bound to the machine.
func sessionPolicy(a *account, on *authz.Instance, document string) (string, error) {
	instance := []string{instanceARN(on)}
	start := []string{instanceARN(on), documentARN(on, a.SSHDocument)}
	if a.PortDocument != a.SSHDocument {
		start = append(start, documentARN(on, a.PortDocument))
	}
	if document != "" {
		start = append(start, documentARN(on, document))
	}
	statements := []statement{
		{"Allow", []string{actionStartSession}, start, nil},
		{"Allow", []string{actionPushKey, actionConsoleOutput}, instance, nil},
		{"Allow", []string{actionResumeSession, actionTerminateSession, "ssmmessages:OpenDataChannel"}, []string{"*"}, nil},
	}
	if document != "" {
		bound := map[string]map[string]string{"StringEquals": {"kms:EncryptionContext:aws:ssm:TargetId": on.ID}}
		statements = append(statements, statement{"Allow", []string{actionDataKey}, []string{"*"}, bound})
	}
	text, err := json.Marshal(map[string]any{"Version": "2012-10-17", "Statement": statements})
	if err != nil {
		return "", fmt.Errorf("session policy for %s: %w", on.ID, err)
	}
	return string(text), nil
}

func instanceARN(on *authz.Instance) string {
	if on.IsManagedNode() {
		return fmt.Sprintf("arn:%s:ssm:%s:%s:managed-instance/%s", partitionOf(on.Region), on.Region, on.Account, on.ID)
	}
	return fmt.Sprintf("arn:%s:ec2:%s:%s:instance/%s", partitionOf(on.Region), on.Region, on.Account, on.ID)
}

// documentARN is how IAM names a document: AWS's own belong to no account.
func documentARN(on *authz.Instance, document string) string {
	switch {
	case strings.HasPrefix(document, "arn:"):
		return document
	case strings.HasPrefix(document, "AWS-"):
		return fmt.Sprintf("arn:%s:ssm:%s::document/%s", partitionOf(on.Region), on.Region, document)
	default:
		return fmt.Sprintf("arn:%s:ssm:%s:%s:document/%s", partitionOf(on.Region), on.Region, on.Account, document)
	}
}

// clientsOn gives the clients to reach one machine as role. document is one that is to be used beside the account's two; empty for none.
func (c *Cloud) clientsOn(role authz.Role, on *authz.Instance, document string) (*clients, *account, error) {
	a, err := c.accountOf(on)
	if err != nil {
		return nil, nil, err
	}
	policy := ""
	if !c.cfg.WholeRole && role.ARN != "" {
		if policy, err = sessionPolicy(a, on, document); err != nil {
			return nil, nil, err
		}
	}
	built, err := c.clientsFor(a, role, on.Region, policy)
	return built, a, err
}
