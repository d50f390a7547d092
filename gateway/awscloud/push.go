package awscloud

import (
	"bytes"
	"context"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// PushKey lets key in as osUser on the machine for 60 seconds, as role. Success says nothing about EC2 Instance Connect being installed there.
func (c *Cloud) PushKey(ctx context.Context, role authz.Role, on *authz.Instance, osUser string, key ssh.PublicKey) error {
	if _, err := authz.ParseOSUser(osUser); err != nil {
		return err
	}
	if on.IsManagedNode() {
		return &authz.Refusal{Reason: authz.ReasonUnsupportedTarget, Subject: on.ID, Action: actionPushKey, Detail: "EC2 Instance Connect knows no hybrid nodes"}
	}
	if err := mustRun(on); err != nil {
		return err
	}
	client, _, err := c.clientsOn(role, on, "")
	if err != nil {
		return err
	}
	info := client.call(actionPushKey, retrySafe)
	if err := c.take(ctx, info); err != nil {
		return c.about(on, err)
	}
	line := string(bytes.TrimSpace(ssh.MarshalAuthorizedKey(key)))
	_, err = invoke(ctx, c, info, func(ctx context.Context) (*ec2instanceconnect.SendSSHPublicKeyOutput, error) {
		return client.connect.SendSSHPublicKey(ctx, &ec2instanceconnect.SendSSHPublicKeyInput{
			InstanceId: aws.String(on.ID), InstanceOSUser: aws.String(osUser), SSHPublicKey: aws.String(line), AvailabilityZone: optional(on.Zone),
		})
	})
	return c.about(on, err)
}

// mustRun refuses a machine that was not running when it was resolved, without asking AWS again: the answer is at most NegativeTTL old.
func mustRun(on *authz.Instance) error {
	if on.State == "" || on.State == stateRunning {
		return nil
	}
	return &authz.Refusal{Reason: authz.ReasonInstanceState, Subject: on.ID, Detail: on.State}
}

// about names the machine in a refusal, and forgets what is remembered of it when AWS has just said otherwise.
func (c *Cloud) about(on *authz.Instance, err error) error {
	if err == nil {
		return nil
	}
	refusal := translate(err, "", "")
	named := *refusal // the original may be shared with others who waited for the same credentials
	if named.Subject == "" {
		named.Subject = on.ID
	}
	if named.Reason == authz.ReasonInstanceState {
		c.unlearn(on)
	}
	return &named
}
