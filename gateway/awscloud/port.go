package awscloud

import (
	"context"
	"fmt"
	"strconv"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

const (
	sshPort   = 22
	maxReason = 256 // characters, StartSession's limit
)

// StartPort opens a Session Manager session to a port of the machine, as role. reason shows in CloudTrail and in the session history; what is beyond
// 256 characters is cut. The grant's functions renew credentials under the same session name.
func (c *Cloud) StartPort(ctx context.Context, role authz.Role, on *authz.Instance, port int, reason string) (ssmproto.Grant, error) {
	a, err := c.accountOf(on)
	if err != nil {
		return ssmproto.Grant{}, err
	}
	in, err := a.startInput(on, port, reason)
	if err != nil {
		return ssmproto.Grant{}, err
	}
	return c.start(ctx, role, on, in, "")
}

// startInput chooses the document: the SSH document for port 22, the port document for every other.
func (a *account) startInput(on *authz.Instance, port int, reason string) (*ssm.StartSessionInput, error) {
	if port < 1 || port > 65535 {
		return nil, &authz.Refusal{Reason: authz.ReasonPortRefused, Subject: on.ID, Detail: fmt.Sprintf("port %d is outside 1 to 65535", port)}
	}
	in := &ssm.StartSessionInput{Target: aws.String(on.ID), Reason: optional(oneLine(reason))}
	in.DocumentName, in.Parameters = aws.String(a.PortDocument), map[string][]string{a.PortParameter: {strconv.Itoa(port)}}
	if port == sshPort {
		in.DocumentName = aws.String(a.SSHDocument)
		if a.SSHFixedPort {
			in.Parameters = nil
		}
	}
	return in, nil
}
