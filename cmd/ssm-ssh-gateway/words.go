package main

import (
	"errors"
	"fmt"
	"net"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// ownSteps are next steps for somebody at a terminal whose credentials are their own, where the gateway's words send people to whoever runs it.
var ownSteps = map[authz.Reason]string{
	authz.ReasonUnknownTarget: "check the name, account and region; `ssm-ssh-gateway ls` lists what there is",
	authz.ReasonPortRefused:   "check that the service there is running, and listens where the instance can reach it",
	authz.ReasonDocument:      "check the name, the type and the parameters of the document, and that it is in this account and region",
	authz.ReasonCloud:         "check network, proxy and region, then try again",
	authz.ReasonShuttingDown:  "try again",
}

// sessionEnds words what ends a session or keeps it from beginning. The first that an error is, counts.
var sessionEnds = []struct {
	cause error
	words string
}{
	{ssmproto.ErrConnectToPort, "nothing answers on that port; " + ownSteps[authz.ReasonPortRefused]},
	{errNoGreeting, "nothing answers on port 22; " + ownSteps[authz.ReasonPortRefused]},
	{ssmproto.ErrHandshakeTimeout, "the SSM agent of the instance does not answer; check that the instance is up and not overloaded, then try again"},
	{ssmproto.ErrPeerSilent, "the instance does not answer any more; check that it is up, then try again"},
	{ssmproto.ErrConnectionLost, "the connection to AWS was lost and did not come back; check the network, then try again"},
	{ssmproto.ErrSessionOver, "Session Manager has ended the session; start it again"},
}

// inWords makes an error readable for somebody at a terminal whose credentials are their own: a sentence and a next step.
func inWords(err error) error {
	var refusal *authz.Refusal
	var ended *ssmproto.SessionEndedError
	switch {
	case errors.As(err, &refusal):
		return errors.New(refusalWords(refusal))
	case errors.As(err, &ended) && ended.Output != "":
		return fmt.Errorf("Session Manager has ended the session: %s", ended.Output) //nolint:staticcheck // a name
	}
	var network *net.OpError
	if errors.As(err, &network) {
		return fmt.Errorf("AWS cannot be reached (%w); check network and proxy, then try again", network)
	}
	for _, end := range sessionEnds {
		if errors.Is(err, end.cause) {
			return errors.New(end.words)
		}
	}
	return err
}

// endedSilently says that a session ended, and as it should, before it had said anything: its program had nothing to say. Then there is nothing to open.
func endedSilently(err error) bool {
	var ended *ssmproto.SessionEndedError
	return errors.As(err, &ended) && ended.Output == ""
}

func refusalWords(refusal *authz.Refusal) string {
	switch {
	case refusal.Reason == authz.ReasonCredentials:
		return credentialWords(refusal)
	case refusal.Reason == authz.ReasonAccessDenied && refusal.Role == "":
		own := *refusal
		own.Role = "whoever these credentials belong to"
		refusal = &own
	}
	what, step := gateway.Words(refusal)
	if own, ok := ownSteps[refusal.Reason]; ok {
		step = own
	}
	return what + "; " + step
}

// credentialWords says what to do about credentials, which the gateway's own words leave to whoever runs it.
func credentialWords(refusal *authz.Refusal) string {
	switch {
	case errors.Is(refusal, awscloud.ErrLoginExpired):
		return "the AWS SSO login of this profile has expired or never was; run ssm-ssh-gateway login, or aws sso login"
	case errors.Is(refusal, errNoTerminal):
		return errNoTerminal.Error() + "; get credentials in a terminal first, for example with aws sts get-session-token"
	}
	words := "no usable AWS credentials"
	switch {
	case refusal.Detail != "":
		words += " (" + refusal.Detail + ")"
	case refusal.Cause != nil:
		words += ": " + refusal.Cause.Error()
	}
	return words + "; set AWS_PROFILE or --profile, or log in with ssm-ssh-gateway login"
}

// failedSession words an error, and gives it ssh's own exit code, unless it has one.
func failedSession(err error) error {
	var exit *exitError
	if errors.As(err, &exit) {
		return err
	}
	return &exitError{Code: exitSSH, Err: inWords(err)}
}
