package awscloud

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// ConsoleOutput gives the decoded console text of the machine, as role; empty without error when there is none, as for managed nodes.
//
// The buffered text is asked for first: EC2 keeps it from the last boot, where the host keys are, while the latest 64 KB of a talkative machine may
// have lost them. The latest text, which only Nitro machines offer, fills the gap when nothing is buffered.
func (c *Cloud) ConsoleOutput(ctx context.Context, role authz.Role, on *authz.Instance) (string, error) {
	if on.IsManagedNode() {
		return "", nil
	}
	client, _, err := c.clientsOn(role, on, "")
	if err != nil {
		return "", err
	}
	text, err := c.console(ctx, client, on, false)
	if err != nil || text != "" {
		return text, err
	}
	text, err = c.console(ctx, client, on, true)
	var refusal *authz.Refusal
	if hasCode(err, "UnsupportedOperation") || errors.As(err, &refusal) && refusal.Reason == authz.ReasonAccessDenied {
		return "", nil
	}
	return text, err
}

func (c *Cloud) console(ctx context.Context, client *clients, on *authz.Instance, latest bool) (string, error) {
	in := &ec2.GetConsoleOutputInput{InstanceId: aws.String(on.ID)}
	if latest {
		in.Latest = aws.Bool(true)
	}
	out, err := invoke(ctx, c, client.call(actionConsoleOutput, retrySafe), func(ctx context.Context) (*ec2.GetConsoleOutputOutput, error) {
		return client.ec2.GetConsoleOutput(ctx, in)
	})
	if err != nil {
		return "", c.about(on, err)
	}
	text, err := base64.StdEncoding.DecodeString(aws.ToString(out.Output))
	if err != nil {
		return "", &authz.Refusal{Reason: authz.ReasonCloud, Subject: on.ID, Action: actionConsoleOutput, Cause: fmt.Errorf("console output: %w", err)}
	}
	return string(text), nil
}
