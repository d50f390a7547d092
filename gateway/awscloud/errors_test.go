package awscloud

import (
	"context"
	"crypto/ed25519"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const testRole = "arn:aws:iam::111122223333:role/ssh/alice"

var testInstance = &authz.Instance{
	ID: "i-0123456789abcdef0", Partition: "aws", Account: "111122223333", Region: "eu-west-1", Zone: "eu-west-1a", State: stateRunning,
}

func testKey(t *testing.T) ssh.PublicKey {
	t.Helper()
	public, _, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func wantRefusal(t *testing.T, err error, want authz.Refusal) *authz.Refusal {
	t.Helper()
	var got *authz.Refusal
	if !errors.As(err, &got) {
		t.Fatalf("got %v, want a refusal for %s", err, want.Reason)
	}
	if got.Reason != want.Reason || got.Action != want.Action || got.Role != want.Role || got.Detail != want.Detail || got.Subject != want.Subject {
		t.Errorf("got %v\nwant %v", got, &want)
	}
	return got
}

// TestErrorsOfAWS says each error in its service's own wire form and reads the refusal.
func TestErrorsOfAWS(t *testing.T) {
	start := func(ctx context.Context, c *Cloud) error {
		_, err := c.StartPort(ctx, authz.Role{}, testInstance, 22, "r")
		return err
	}
	push := func(ctx context.Context, c *Cloud) error {
		return c.PushKey(ctx, authz.Role{}, testInstance, "ec2-user", testKey(t))
	}
	console := func(ctx context.Context, c *Cloud) error {
		_, err := c.ConsoleOutput(ctx, authz.Role{}, testInstance)
		return err
	}
	resolve := func(ctx context.Context, c *Cloud) error {
		_, err := c.Resolve(ctx, testInstance.ID)
		return err
	}
	for _, test := range []struct {
		do     func(context.Context, *Cloud) error
		code   string
		reason authz.Reason
		detail string
	}{
		{start, "AccessDeniedException", authz.ReasonAccessDenied, ""},
		{start, "TargetNotConnected", authz.ReasonTargetNotConnected, ""},
		{start, "InvalidDocument", authz.ReasonDocument, "AWS-StartSSHSession"},
		{start, "ValidationException", authz.ReasonDocument, "AWS-StartSSHSession"},
		{start, "UnrecognizedClientException", authz.ReasonCredentials, "AWS does not know the access key or its session token"},
		{start, "ExpiredTokenException", authz.ReasonCredentials, "expired"},
		{start, "ThrottlingException", authz.ReasonThrottled, ""},
		{start, "SomethingNew", authz.ReasonCloud, ""},
		{push, "AuthException", authz.ReasonAccessDenied, ""},
		{push, "AccessDeniedException", authz.ReasonAccessDenied, ""},
		{push, "EC2InstanceStateInvalidException", authz.ReasonInstanceState, "not running"},
		{push, "EC2InstanceNotFoundException", authz.ReasonInstanceState, "unknown to EC2 Instance Connect"},
		{push, "EC2InstanceUnavailableException", authz.ReasonInstanceState, "unavailable for the moment"},
		{push, "InvalidArgsException", authz.ReasonKeyRefused, "EC2 Instance Connect does not take this key"},
		{push, "ThrottlingException", authz.ReasonThrottled, ""},
		{console, "UnauthorizedOperation", authz.ReasonAccessDenied, ""},
		{console, "InvalidInstanceID.NotFound", authz.ReasonInstanceState, "terminated"},
		{resolve, "AuthFailure", authz.ReasonCredentials, "AWS does not know the access key"},
		{resolve, "RequestLimitExceeded", authz.ReasonThrottled, ""},
	} {
		t.Run(test.code, func(t *testing.T) {
			fake := newFakeAWS(t)
			for _, action := range []string{"StartSession", "SendSSHPublicKey"} {
				fake.answer(action, http.StatusBadRequest, jsonError(test.code))
			}
			for _, action := range []string{"GetConsoleOutput", "DescribeInstances"} {
				fake.answer(action, http.StatusBadRequest, ec2Error(test.code))
			}
			err := test.do(t.Context(), cloudAt(t, fake.URL, Config{MaxAttempts: 1}))
			got := wantRefusal(t, err, authz.Refusal{
				Reason: test.reason, Detail: test.detail, Subject: testInstance.ID, Action: actionOf(err),
			})
			if !strings.Contains(got.Error(), "told so") {
				t.Errorf("the log does not get what AWS said: %v", got)
			}
		})
	}
}

func actionOf(err error) string {
	var refusal *authz.Refusal
	if errors.As(err, &refusal) && strings.Contains(refusal.Action, ":") {
		return refusal.Action
	}
	return "an IAM action"
}

// TestAssumeRoleDenied: the refusal names AssumeRole and the role, not the call that needed the credentials.
func TestAssumeRoleDenied(t *testing.T) {
	fake := newFakeAWS(t)
	fake.answer("AssumeRole", http.StatusForbidden, stsError("AccessDenied"))
	c := cloudAt(t, fake.URL, Config{})
	role := authz.Role{ARN: testRole, SessionName: "alice", SourceIdentity: "alice"}
	_, err := c.StartPort(t.Context(), role, testInstance, 22, "")
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonAccessDenied, Action: "sts:AssumeRole", Role: testRole, Subject: testInstance.ID})
	if n := len(fake.bodies("AssumeRole")); n != 1 {
		t.Errorf("a denied AssumeRole was tried %d times", n)
	}
}

func TestNoAnswer(t *testing.T) {
	fake := newFakeAWS(t)
	fake.Close()
	c := cloudAt(t, fake.URL, Config{MaxAttempts: 1})
	err := c.PushKey(t.Context(), authz.Role{}, testInstance, "ec2-user", testKey(t))
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonCloud, Action: actionPushKey, Detail: "AWS cannot be reached", Subject: testInstance.ID})

	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	err = c.PushKey(ctx, authz.Role{}, testInstance, "ec2-user", testKey(t))
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonTimeout, Action: actionPushKey, Subject: testInstance.ID})
}

// TestRefusedWithoutAsking: what is known to fail costs no call.
func TestRefusedWithoutAsking(t *testing.T) {
	fake := newFakeAWS(t)
	c := cloudAt(t, fake.URL, Config{})
	stopped, node := *testInstance, *testInstance
	stopped.State, node.ID, node.State = "stopped", "mi-0123456789abcdef0", ""
	key := testKey(t)
	wantRefusal(t, c.PushKey(t.Context(), authz.Role{}, &stopped, "ec2-user", key),
		authz.Refusal{Reason: authz.ReasonInstanceState, Subject: stopped.ID, Detail: "stopped"})
	wantRefusal(t, c.PushKey(t.Context(), authz.Role{}, testInstance, "root;reboot", key),
		authz.Refusal{Reason: authz.ReasonBadOSUser, Subject: "root;reboot"})
	wantRefusal(t, c.PushKey(t.Context(), authz.Role{}, &node, "ec2-user", key),
		authz.Refusal{Reason: authz.ReasonUnsupportedTarget, Subject: node.ID, Action: actionPushKey, Detail: "EC2 Instance Connect knows no hybrid nodes"})
	wantRefusal(t, c.PushKey(t.Context(), authz.Role{ARN: testRole}, testInstance, "ec2-user", key),
		authz.Refusal{Reason: authz.ReasonNoRole, Role: testRole, Detail: "a role is assumed only for a named person"})
	_, err := c.StartPort(t.Context(), authz.Role{}, &stopped, 22, "")
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonInstanceState, Subject: stopped.ID, Detail: "stopped"})
	_, err = c.StartPort(t.Context(), authz.Role{}, testInstance, 0, "")
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonPortRefused, Subject: testInstance.ID, Detail: "port 0 is outside 1 to 65535"})
	if len(fake.calls) != 0 {
		t.Errorf("AWS was asked: %v", fake.calls)
	}
}
