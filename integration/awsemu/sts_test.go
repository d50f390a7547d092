package awsemu_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// wantCode fails unless err is an API error with that code, whose message has all the parts.
func wantCode(t *testing.T, err error, code string, parts ...string) {
	t.Helper()
	var api smithy.APIError
	if !errors.As(err, &api) {
		t.Fatalf("got error %v, want %s", err, code)
	}
	if api.ErrorCode() != code {
		t.Fatalf("got error %s (%s), want %s", api.ErrorCode(), api.ErrorMessage(), code)
	}
	for _, part := range parts {
		if !strings.Contains(api.ErrorMessage(), part) {
			t.Errorf("message %q does not say %q", api.ErrorMessage(), part)
		}
	}
}

func TestAssumeRoleNamesThePerson(t *testing.T) {
	s := start(t)
	out, err := stsClient(gateway(t, s)).AssumeRole(deadline(t), assumption("alice", "shop"))
	if err != nil {
		t.Fatal(err)
	}
	if want := "arn:aws:sts::" + account + ":assumed-role/ssh/alice"; *out.AssumedRoleUser.Arn != want || *out.SourceIdentity != "alice" {
		t.Errorf("assumed %s as %s, want %s as alice", *out.AssumedRoleUser.Arn, *out.SourceIdentity, want)
	}
	if left := time.Until(*out.Credentials.Expiration); left > time.Hour || left < 55*time.Minute {
		t.Errorf("credentials expire in %v, want the default hour", left)
	}
	alice := sdk(t, s, *out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
	identity, err := stsClient(alice).GetCallerIdentity(deadline(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	if *identity.Arn != *out.AssumedRoleUser.Arn || *identity.Account != account || !strings.HasSuffix(*identity.UserId, ":alice") {
		t.Errorf("caller identity is %s %s %s", *identity.Arn, *identity.Account, *identity.UserId)
	}
	last := s.Calls()[len(s.Calls())-1]
	want := awsemu.Call{
		Service: "sts", Action: "GetCallerIdentity", Principal: *identity.Arn, Role: personRole, SessionName: "alice", SourceIdentity: "alice",
		Tags: map[string]string{"team": "shop"}, Region: region, Params: map[string]string{}, Time: last.Time, RequestID: last.RequestID,
	}
	if diff := cmp.Diff(want, last); diff != "" {
		t.Errorf("call log differs (-want +got):\n%s", diff)
	}
}

func TestAssumeRoleRefusals(t *testing.T) {
	s := start(t)
	chained := person(t, s, "alice", "shop")
	for _, test := range []struct {
		name   string
		as     aws.Config
		change func(*sts.AssumeRoleInput)
		code   string
		part   string
	}{
		{"role does not trust", gateway(t, s), func(in *sts.AssumeRoleInput) { in.RoleArn = aws.String(otherRole) }, "AccessDenied", otherRole},
		{"caller has no policy", sdk(t, s, nobodyKey, nobodySecret, ""), func(*sts.AssumeRoleInput) {}, "AccessDenied", "user/nobody"},
		{"no such role", gateway(t, s), func(in *sts.AssumeRoleInput) {
			in.RoleArn = aws.String("arn:aws:iam::" + account + ":role/people/none")
		}, "AccessDenied", "sts:AssumeRole"},
		{"session name", gateway(t, s), func(in *sts.AssumeRoleInput) { in.RoleSessionName = aws.String("a lice") }, "ValidationError", "roleSessionName"},
		{"source identity", gateway(t, s), func(in *sts.AssumeRoleInput) { in.SourceIdentity = aws.String("aws:alice") }, "ValidationError", "sourceIdentity"},
		{"too short", gateway(t, s), func(in *sts.AssumeRoleInput) { in.DurationSeconds = aws.Int32(899) }, "ValidationError", "900"},
		{"longer than the role allows", gateway(t, s), func(in *sts.AssumeRoleInput) { in.DurationSeconds = aws.Int32(7201) }, "ValidationError", "MaxSessionDuration"},
		{"chained for more than an hour", chained, func(in *sts.AssumeRoleInput) {
			in.RoleArn, in.SourceIdentity, in.Tags, in.DurationSeconds = aws.String(otherRole), nil, nil, aws.Int32(3601)
		}, "ValidationError", "role chaining"},
		{"source identity of a session changed", chained, func(in *sts.AssumeRoleInput) {
			in.RoleArn, in.SourceIdentity, in.Tags = aws.String(otherRole), aws.String("bob"), nil
		}, "AccessDenied", "SetSourceIdentity"},
		{"policy is not one", gateway(t, s), func(in *sts.AssumeRoleInput) { in.Policy = aws.String(`{"Statement":[{"Effect":"Perhaps"}]}`) }, "MalformedPolicyDocument", "Perhaps"},
		{"policy too large", gateway(t, s), func(in *sts.AssumeRoleInput) { in.Policy = aws.String(strings.Repeat(" ", 2049)) }, "PackedPolicyTooLarge", ""},
		{"strange tag", gateway(t, s), func(in *sts.AssumeRoleInput) {
			in.Tags = []ststypes.Tag{{Key: aws.String("team"), Value: aws.String("<shop>")}}
		}, "ValidationError", "tags"},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := assumption("alice", "shop")
			test.change(in)
			_, err := stsClient(test.as).AssumeRole(deadline(t), in)
			wantCode(t, err, test.code, test.part)
		})
	}
}

// TestChainedSessionKeepsItsSource pins that the person stays known across roles.
func TestChainedSessionKeepsItsSource(t *testing.T) {
	s := start(t)
	out, err := stsClient(person(t, s, "alice", "shop")).AssumeRole(deadline(t), &sts.AssumeRoleInput{
		RoleArn: aws.String(otherRole), RoleSessionName: aws.String("anything"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if aws.ToString(out.SourceIdentity) != "alice" {
		t.Errorf("source identity is %q after chaining, want alice", aws.ToString(out.SourceIdentity))
	}
}

func TestSessionPolicyNarrows(t *testing.T) {
	s := start(t)
	in := assumption("alice", "shop")
	in.Policy = aws.String(`{"Version":"2012-10-17","Statement":{"Effect":"Allow","Action":"ec2:GetConsoleOutput","Resource":"arn:aws:ec2:*:*:instance/` + webID + `"}}`)
	out, err := stsClient(gateway(t, s)).AssumeRole(deadline(t), in)
	if err != nil {
		t.Fatal(err)
	}
	alice := ec2Client(sdk(t, s, *out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken))
	if _, err := alice.GetConsoleOutput(deadline(t), &ec2.GetConsoleOutputInput{InstanceId: aws.String(webID)}); err != nil {
		t.Errorf("what role and session policy allow is refused: %v", err)
	}
	_, err = alice.GetConsoleOutput(deadline(t), &ec2.GetConsoleOutputInput{InstanceId: aws.String(dbID)})
	wantCode(t, err, "UnauthorizedOperation", "assumed-role/ssh/alice", "ec2:GetConsoleOutput", dbID, "session policy")
}
