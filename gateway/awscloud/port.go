package awscloud

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"

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
	if err := mustRun(on); err != nil {
		return ssmproto.Grant{}, err
	}
	client, a, err := c.clientsOn(role, on)
	if err != nil {
		return ssmproto.Grant{}, err
	}
	in, err := a.startInput(on, port, reason)
	if err != nil {
		return ssmproto.Grant{}, err
	}
	info := client.call(actionStartSession, retryUnsent)
	if err := c.take(ctx, info); err != nil {
		return ssmproto.Grant{}, c.about(on, err)
	}
	out, err := invoke(ctx, c, info, func(ctx context.Context) (*ssm.StartSessionOutput, error) { return client.ssm.StartSession(ctx, in) })
	if err != nil {
		err = c.about(on, err)
		var refusal *authz.Refusal
		if errors.As(err, &refusal) && refusal.Reason == authz.ReasonDocument && refusal.Detail == "" {
			refusal.Detail = aws.ToString(in.DocumentName)
		}
		return ssmproto.Grant{}, err
	}
	held := &portSession{cloud: c, role: role, on: on, client: client}
	return ssmproto.Grant{
		SessionID: aws.ToString(out.SessionId),
		StreamURL: streamURL(aws.ToString(out.StreamUrl), client.ssm.Options().EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled),
		Token:     ssmproto.NewToken(aws.ToString(out.TokenValue)),
		Resume:    held.resume, Terminate: held.terminate, Sign: held.sign,
	}, nil
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

// oneLine makes a text fit for Reason: no line breaks, at most 256 characters.
func oneLine(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if runes := []rune(text); len(runes) > maxReason {
		text = string(runes[:maxReason])
	}
	return text
}

// streamURL is the URL as received, but for one thing: whoever asked for FIPS endpoints gets none that is not, whatever StartSession names.
func streamURL(received string, fips bool) string {
	if !fips {
		return received
	}
	u, err := url.Parse(received)
	if err != nil || !strings.HasPrefix(u.Host, "ssmmessages.") {
		return received
	}
	u.Host = "ssmmessages-fips." + strings.TrimPrefix(u.Host, "ssmmessages.")
	return u.String()
}

// portSession is what a grant's functions need.
type portSession struct {
	cloud  *Cloud
	role   authz.Role
	on     *authz.Instance
	client *clients // of the start; terminating works with it even after Forget
}

// resume asks for a fresh token. It looks its clients up anew, so that after Forget the role must be assumed again; a person who may no longer
// do that has no session to come back to.
func (s *portSession) resume(ctx context.Context, sessionID string) (ssmproto.Token, error) {
	client, _, err := s.cloud.clientsOn(s.role, s.on)
	if err != nil {
		return ssmproto.Token{}, err
	}
	out, err := invoke(ctx, s.cloud, client.call(actionResumeSession, retrySafe), func(ctx context.Context) (*ssm.ResumeSessionOutput, error) {
		return client.ssm.ResumeSession(ctx, &ssm.ResumeSessionInput{SessionId: aws.String(sessionID)})
	})
	var refusal *authz.Refusal
	switch {
	case hasCode(err, "DoesNotExistException"), errors.As(err, &refusal) && refusal.Reason == authz.ReasonAccessDenied:
		return ssmproto.Token{}, fmt.Errorf("resuming %s: %w: %w", sessionID, ssmproto.ErrSessionOver, err)
	case err != nil:
		return ssmproto.Token{}, fmt.Errorf("resuming %s: %w", sessionID, err)
	case aws.ToString(out.TokenValue) == "": // how the service says that the session has ended
		return ssmproto.Token{}, fmt.Errorf("resuming %s: %w", sessionID, ssmproto.ErrSessionOver)
	}
	return ssmproto.NewToken(aws.ToString(out.TokenValue)), nil
}

// terminate ends the session. It is called while everything around it ends, so it does not take the caller's deadline but has its own.
func (s *portSession) terminate(ctx context.Context, sessionID string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cloud.cfg.CallTimeout)
	defer cancel()
	_, err := invoke(ctx, s.cloud, s.client.call(actionTerminateSession, retrySafe), func(ctx context.Context) (*ssm.TerminateSessionOutput, error) {
		return s.client.ssm.TerminateSession(ctx, &ssm.TerminateSessionInput{SessionId: aws.String(sessionID)})
	})
	if hasCode(err, "DoesNotExistException") {
		return nil
	}
	return err
}
