package main

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// TestCredentialWords: whose credentials they are decides what to do about them.
func TestCredentialWords(t *testing.T) {
	for want, refusal := range map[string]*authz.Refusal{
		"ssm-ssh-gateway login, or aws sso login": {Cause: awscloud.ErrLoginExpired},
		"there is no terminal to ask on":          {Cause: errNoTerminal},
		"exit status 1; set AWS_PROFILE":          {Cause: errors.New("credential_process: exit status 1")},
		"credentials (the clock is off); set":     {Cause: errors.New("four lines of SDK"), Detail: "the clock is off"},
	} {
		refusal.Reason, refusal.Action = authz.ReasonCredentials, "credentials"
		if got := inWords(refusal).Error(); !strings.Contains(got, want) {
			t.Errorf("%v reads %q, want %q", refusal, got, want)
		}
	}
}

// TestSessionWords: what a session ends with, and what AWS refuses, reads as a sentence with a next step, and not as the library's own text. There is no gateway
// to ask here.
func TestSessionWords(t *testing.T) {
	for _, c := range []struct {
		err  error
		want string
	}{
		{ssmproto.ErrConnectToPort, "nothing answers on that port; check"},
		{ssmproto.ErrHandshakeTimeout, "the SSM agent of the instance does not answer; check"},
		{ssmproto.ErrPeerSilent, "the instance does not answer any more; check"},
		{ssmproto.ErrConnectionLost, "the connection to AWS was lost and did not come back; check"},
		{&ssmproto.SessionEndedError{SessionID: "alice-1"}, "Session Manager has ended the session; start it again"},
		{&ssmproto.SessionEndedError{SessionID: "alice-1", Output: "Forwarding is forbidden."}, "Session Manager has ended the session: Forwarding is forbidden."},
		{&net.OpError{Op: "dial", Net: "tcp", Err: errors.New("connection refused")}, "AWS cannot be reached (dial tcp: connection refused); check network"},
		{&authz.Refusal{Reason: authz.ReasonUnknownTarget, Subject: "web-9"}, "no machine web-9 is known; check the name, account and region; `ssm-ssh-gateway ls` lists"},
		{&authz.Refusal{Reason: authz.ReasonCloud, Detail: "AWS cannot be reached"}, "(AWS cannot be reached); check network, proxy and region"},
		{&authz.Refusal{Reason: authz.ReasonAccessDenied, Action: "ssm:StartSession"}, "as whoever these credentials belong to; ask for"},
	} {
		got := failedSession(fmt.Errorf("ssmproto: waiting: %w", c.err)).Error()
		if !strings.Contains(got, c.want) || strings.Contains(got, "ssmproto") || strings.Contains(got, "GATEWAY") {
			t.Errorf("%v reads %q, want %q", c.err, got, c.want)
		}
	}
}
