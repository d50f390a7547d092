package awscloud

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Session documents of AWS for what is not a port of the machine.
const (
	// PortDocument leads to a port of the machine, with many connections in one session. Parameter: portNumber.
	PortDocument = defaultPortDocument
	// RemoteHostDocument leads to a port of a host behind the machine. Parameters: host, portNumber.
	RemoteHostDocument = "AWS-StartPortForwardingSessionToRemoteHost"
	// InteractiveDocument runs one command on a terminal. Parameter: command.
	InteractiveDocument = "AWS-StartInteractiveCommand"
	// CommandDocument runs one command without terminal and input. Parameter: command.
	CommandDocument = "AWS-StartNonInteractiveCommand"

	// shellDocument is what a session without a document is authorized against: the account's shell preferences.
	shellDocument = "SSM-SessionManagerRunShell"
)

// Purpose says what a session is opened for, where it is not a port of the machine itself.
type Purpose struct {
	// Document is the name or ARN of a session document. Empty means the account's shell.
	Document string
	// Parameters are those the document declares.
	Parameters map[string][]string
	// Reason shows in CloudTrail and in the session history; what is beyond 256 characters is cut.
	Reason string
}

// StartSession opens a session of any kind with the machine, as role. The grant is like StartPort's.
func (c *Cloud) StartSession(ctx context.Context, role authz.Role, on *authz.Instance, purpose Purpose) (ssmproto.Grant, error) {
	if purpose.Document != "" && !documentPattern.MatchString(purpose.Document) {
		return ssmproto.Grant{}, &authz.Refusal{Reason: authz.ReasonDocument, Subject: on.ID, Detail: purpose.Document + " is not the name of a document"}
	}
	in := &ssm.StartSessionInput{
		Target: aws.String(on.ID), DocumentName: optional(purpose.Document), Parameters: purpose.Parameters, Reason: optional(oneLine(purpose.Reason)),
	}
	document := purpose.Document
	if document == "" {
		document = shellDocument
	}
	return c.start(ctx, role, on, in, document)
}

// start makes the call. document is what the role has to be allowed beside the account's port documents; empty for those.
func (c *Cloud) start(ctx context.Context, role authz.Role, on *authz.Instance, in *ssm.StartSessionInput, document string) (ssmproto.Grant, error) {
	if err := mustRun(on); err != nil {
		return ssmproto.Grant{}, err
	}
	client, _, err := c.clientsOn(role, on, document)
	if err != nil {
		return ssmproto.Grant{}, err
	}
	info := client.call(actionStartSession, retryUnsent)
	if err := c.take(ctx, info); err != nil {
		return ssmproto.Grant{}, c.about(on, err)
	}
	held := &heldSession{cloud: c, role: role, on: on, document: document, client: client}
	out, err := invoke(ctx, c, info, func(ctx context.Context) (*ssm.StartSessionOutput, error) { return held.open(ctx, in) })
	if err != nil {
		err = c.about(on, err)
		var refusal *authz.Refusal
		if errors.As(err, &refusal) && refusal.Reason == authz.ReasonDocument && refusal.Detail == "" {
			refusal.Detail = aws.ToString(in.DocumentName)
		}
		return ssmproto.Grant{}, err
	}
	return held.grant(aws.ToString(out.SessionId), aws.ToString(out.StreamUrl), aws.ToString(out.TokenValue)), nil
}

// CheckRole makes sure of credentials of role for a machine: those that are held and have not expired, or new ones from STS. After Forget that is an AssumeRole.
func (c *Cloud) CheckRole(ctx context.Context, role authz.Role, on *authz.Instance) error {
	client, _, err := c.clientsOn(role, on, "")
	if err != nil {
		return err
	}
	if _, err := client.credentials.Retrieve(ctx); err != nil {
		return c.about(on, translate(err, "sts:AssumeRole", role.ARN))
	}
	return nil
}

// grant is the answer of StartSession with the calls that keep and end the session.
func (s *heldSession) grant(id, stream, token string) ssmproto.Grant {
	fips := s.client.ssm.Options().EndpointOptions.UseFIPSEndpoint == aws.FIPSEndpointStateEnabled
	return ssmproto.Grant{
		SessionID: id, StreamURL: streamURL(stream, fips), Target: s.on.ID, Token: ssmproto.NewToken(token),
		Resume: s.resume, Terminate: s.terminate, Sign: s.sign, GenerateDataKey: s.generateDataKey,
	}
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

// heldSession is what a grant's functions need.
type heldSession struct {
	cloud    *Cloud
	role     authz.Role
	on       *authz.Instance
	document string   // where it is neither of the account's port documents
	client   *clients // of the start; terminating works with it even after Forget
}

// resume asks for a fresh token. It looks its clients up anew, so that after Forget the role must be assumed again; a person who may no longer
// do that has no session to come back to.
func (s *heldSession) resume(ctx context.Context, sessionID string) (ssmproto.Token, error) {
	client, _, err := s.cloud.clientsOn(s.role, s.on, s.document)
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
func (s *heldSession) terminate(ctx context.Context, sessionID string) error {
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
