package awsemu_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	ec2types "github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	kmstypes "github.com/aws/aws-sdk-go-v2/service/kms/types"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	"github.com/aws/smithy-go"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/crypto/ssh"

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

func TestDescribeInstancesFilters(t *testing.T) {
	s := start(t)
	client := ec2Client(gateway(t, s))
	for _, test := range []struct {
		filter string
		values []string
		want   []string
	}{
		{"instance-id", []string{webID}, []string{webID}},
		{"tag:Name", []string{"web"}, []string{webID}},
		{"tag:Name", []string{"w*", "d?"}, []string{webID, dbID}},
		{"tag:team", []string{"shop"}, []string{webID, stoppedID}},
		{"tag:nothing", []string{"*"}, nil},
		{"tag-key", []string{"team"}, []string{webID, dbID, stoppedID}},
		{"tag-value", []string{"data"}, []string{dbID}},
		{"private-ip-address", []string{"10.0.0.2"}, []string{dbID}},
		{"private-dns-name", []string{"ip-10-0-0-1.eu-central-1.compute.internal"}, []string{webID}},
		{"instance-state-name", []string{"running"}, []string{webID, dbID}},
	} {
		t.Run(test.filter+"="+strings.Join(test.values, ","), func(t *testing.T) {
			out, err := client.DescribeInstances(deadline(t), &ec2.DescribeInstancesInput{
				Filters: []ec2types.Filter{{Name: aws.String(test.filter), Values: test.values}},
			})
			if err != nil {
				t.Fatal(err)
			}
			if got := instanceIDs(out); !slices.Equal(got, test.want) {
				t.Errorf("found %v, want %v", got, test.want)
			}
		})
	}
}

func instanceIDs(out *ec2.DescribeInstancesOutput) []string {
	var ids []string
	for _, r := range out.Reservations {
		for _, i := range r.Instances {
			ids = append(ids, *i.InstanceId)
		}
	}
	return ids
}

func TestDescribeInstancesPages(t *testing.T) {
	s := start(t)
	for n := range 12 {
		id := "i-00000000000000" + string("abcdef012345"[n]) + "00"
		if err := s.AddInstance(account, awsemu.Instance{ID: id, Region: region}); err != nil {
			t.Fatal(err)
		}
	}
	pages := ec2.NewDescribeInstancesPaginator(ec2Client(gateway(t, s)), &ec2.DescribeInstancesInput{MaxResults: aws.Int32(6)})
	var sizes []int
	seen := map[string]bool{}
	for pages.HasMorePages() {
		out, err := pages.NextPage(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		ids := instanceIDs(out)
		sizes = append(sizes, len(ids))
		for _, id := range ids {
			seen[id] = true
		}
	}
	if !slices.Equal(sizes, []int{6, 6, 3}) || len(seen) != 15 {
		t.Errorf("pages of %v instances, %d different ones; want 6, 6, 3 and 15", sizes, len(seen))
	}
}

func TestEC2Refusals(t *testing.T) {
	s := start(t)
	client := ec2Client(gateway(t, s))
	describe := func(in *ec2.DescribeInstancesInput) error {
		_, err := client.DescribeInstances(deadline(t), in)
		return err
	}
	wantCode(t, describe(&ec2.DescribeInstancesInput{InstanceIds: []string{"i-0fffffffffffffff0"}}), "InvalidInstanceID.NotFound", "i-0fffffffffffffff0")
	wantCode(t, describe(&ec2.DescribeInstancesInput{InstanceIds: []string{"web"}}), "InvalidInstanceID.Malformed", "web")
	wantCode(t, describe(&ec2.DescribeInstancesInput{MaxResults: aws.Int32(4)}), "InvalidParameterValue", "maxResults")
	wantCode(t, describe(&ec2.DescribeInstancesInput{NextToken: aws.String("x")}), "InvalidNextToken")
	wantCode(t, describe(&ec2.DescribeInstancesInput{Filters: []ec2types.Filter{{Name: aws.String("colour"), Values: []string{"red"}}}}), "InvalidParameterValue", "colour")
	_, err := ec2Client(sdk(t, s, nobodyKey, nobodySecret, "")).DescribeInstances(deadline(t), nil)
	wantCode(t, err, "UnauthorizedOperation", "user/nobody", "ec2:DescribeInstances")
}

func TestConsoleOutputIsEncodedText(t *testing.T) {
	s := start(t)
	out, err := ec2Client(person(t, s, "alice", "shop")).GetConsoleOutput(deadline(t), &ec2.GetConsoleOutputInput{InstanceId: aws.String(webID)})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := base64.StdEncoding.DecodeString(*out.Output); err != nil || string(text) != "booting\nready\n" {
		t.Errorf("console output decodes to %q, %v", text, err)
	}
}

func TestRegionsAreThoseWithMachines(t *testing.T) {
	s := start(t)
	if err := s.AddInstance(account, awsemu.Instance{ID: "i-0000000000000000a", Region: "us-west-2"}); err != nil {
		t.Fatal(err)
	}
	out, err := ec2Client(gateway(t, s)).DescribeRegions(deadline(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range out.Regions {
		names = append(names, *r.RegionName)
	}
	if !slices.Equal(names, []string{region, "us-west-2"}) {
		t.Errorf("regions %v", names)
	}
}

// newKey makes a public key line.
func newKey(t *testing.T, public any) string {
	t.Helper()
	key, err := ssh.NewPublicKey(public)
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(key))
}

func ed25519Key(t *testing.T) string {
	t.Helper()
	public, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return newKey(t, public)
}

func TestPushedKeyLetsInForAMinute(t *testing.T) {
	var clock clock
	s := start(t, clock.use)
	alice := connectClient(person(t, s, "alice", "shop"))
	first, second := ed25519Key(t), ed25519Key(t)
	push := func(key string) {
		t.Helper()
		out, err := alice.SendSSHPublicKey(deadline(t), &ec2instanceconnect.SendSSHPublicKeyInput{
			InstanceId: aws.String(webID), InstanceOSUser: aws.String("ec2-user"), SSHPublicKey: aws.String(key),
		})
		if err != nil || !out.Success {
			t.Fatalf("pushing a key: %+v, %v", out, err)
		}
	}
	push(first)
	clock.advance(30 * time.Second)
	push(second)
	first, second = strings.TrimSpace(first), strings.TrimSpace(second)
	if got := s.PushedKeys(webID, "ec2-user"); !slices.Equal(got, []string{first, second}) {
		t.Errorf("two keys side by side: %v", got)
	}
	if got := s.PushedKeys(webID, "ubuntu"); got != nil {
		t.Errorf("another user is let in by %v", got)
	}
	clock.advance(31 * time.Second)
	if got := s.PushedKeys(webID, "ec2-user"); !slices.Equal(got, []string{second}) {
		t.Errorf("after 61 seconds %v, want the second key only", got)
	}
	if err := s.UpdateInstance(webID, func(i *awsemu.Instance) { i.NoInstanceConnect = true }); err != nil {
		t.Fatal(err)
	}
	push(first)
	if got := s.PushedKeys(webID, "ec2-user"); got != nil {
		t.Errorf("a machine without Instance Connect sees %v", got)
	}
}

func TestSendSSHPublicKeyRefusals(t *testing.T) {
	s := start(t)
	curve, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	alice := connectClient(person(t, s, "alice", "shop"))
	for _, test := range []struct {
		name, id, user, key, code, part string
	}{
		{"ECDSA", webID, "ec2-user", newKey(t, curve.Public()), "InvalidArgsException", "ecdsa"},
		{"no key", webID, "ec2-user", strings.Repeat("x", 100), "InvalidArgsException", "not one public key"},
		{"two keys", webID, "ec2-user", ed25519Key(t) + ed25519Key(t), "InvalidArgsException", "not one public key"},
		{"options", webID, "ec2-user", `command="x" ` + ed25519Key(t), "InvalidArgsException", "not one public key"},
		{"OS user", webID, "-root", ed25519Key(t), "InvalidArgsException", "-root"},
		{"OS user the role does not allow", webID, "root", ed25519Key(t), "AccessDeniedException", "ec2-instance-connect:SendSSHPublicKey"},
		{"machine of another team", dbID, "ec2-user", ed25519Key(t), "AccessDeniedException", dbID},
		{"stopped", stoppedID, "ec2-user", ed25519Key(t), "EC2InstanceStateInvalidException", "running"},
		{"managed node", nodeID, "ec2-user", ed25519Key(t), "InvalidArgsException", nodeID},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := alice.SendSSHPublicKey(deadline(t), &ec2instanceconnect.SendSSHPublicKeyInput{
				InstanceId: aws.String(test.id), InstanceOSUser: aws.String(test.user), SSHPublicKey: aws.String(test.key),
			})
			wantCode(t, err, test.code, test.part)
		})
	}
	if err := s.SetRolePolicy(personRole, awsemu.Allow([]string{"*"}, "*")); err != nil {
		t.Fatal(err)
	}
	_, err = alice.SendSSHPublicKey(deadline(t), &ec2instanceconnect.SendSSHPublicKeyInput{
		InstanceId: aws.String("i-0fffffffffffffff0"), InstanceOSUser: aws.String("ec2-user"), SSHPublicKey: aws.String(ed25519Key(t)),
	})
	wantCode(t, err, "EC2InstanceNotFoundException")
}

func TestStartSessionRefusals(t *testing.T) {
	s := start(t)
	attachAgent(t, s, webID)
	attachAgent(t, s, nodeID)
	alice := ssmClient(person(t, s, "alice", "shop"))
	port := func(p string) map[string][]string { return map[string][]string{"portNumber": {p}} }
	for _, test := range []struct {
		name, target, document string
		parameters             map[string][]string
		code                   string
		parts                  []string
	}{
		{"machine of another team", dbID, "AWS-StartSSHSession", nil, "AccessDeniedException", []string{"assumed-role/ssh/alice", "ssm:StartSession", "instance/" + dbID}},
		{"document not in the policy", webID, "AWS-RunShell", nil, "AccessDeniedException", []string{"document/AWS-RunShell"}},
		{"default document by omission", webID, "", nil, "AccessDeniedException", []string{"SSM-SessionManagerRunShell"}},
		{"no such document", webID, "AWS-StartNothing", nil, "InvalidDocument", []string{"AWS-StartNothing"}},
		{"no agent", stoppedID, "AWS-StartSSHSession", nil, "TargetNotConnected", []string{stoppedID + " is not connected."}},
		{"port out of range", webID, "AWS-StartSSHSession", port("65536"), "InvalidParameters", []string{"portNumber", "65536"}},
		{"port is a command", webID, "AWS-StartSSHSession", port("22;id"), "InvalidParameters", []string{"portNumber"}},
		{"unknown parameter", webID, "AWS-StartSSHSession", map[string][]string{"host": {"db"}}, "InvalidParameters", []string{"host"}},
		{"host is missing", webID, "AWS-StartPortForwardingSessionToRemoteHost", port("80"), "InvalidParameters", []string{"host"}},
		{"value not allowed", webID, "OwnPorts", port("443"), "InvalidParameters", []string{"portNumber"}},
		{"value too long", webID, "OwnPorts", map[string][]string{"portNumber": {"22"}, "note": {"abcdef"}}, "InvalidParameters", []string{"note"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			in := &ssm.StartSessionInput{Target: aws.String(test.target), Parameters: test.parameters}
			if test.document != "" {
				in.DocumentName = aws.String(test.document)
			}
			_, err := alice.StartSession(deadline(t), in)
			wantCode(t, err, test.code, test.parts...)
		})
	}
	if n := len(s.Sessions()); n != 0 {
		t.Errorf("refused calls left %d sessions", n)
	}
}

// TestStartSessionInvitesTheAgent checks what the agent is told, for a document of AWS and for one of the account.
func TestStartSessionInvitesTheAgent(t *testing.T) {
	s := start(t)
	agent := attachAgent(t, s, nodeID)
	alice := ssmClient(person(t, s, "alice", "shop"))
	for _, test := range []struct {
		document string
		given    map[string][]string
		want     map[string]string
	}{
		{"AWS-StartSSHSession", nil, map[string]string{"portNumber": "22"}},
		{"AWS-StartPortForwardingSessionToRemoteHost", map[string][]string{"host": {"db.internal"}, "portNumber": {"5432"}},
			map[string]string{"host": "db.internal", "portNumber": "5432", "localPortNumber": "0"}},
		{"OwnPorts", map[string][]string{"portNumber": {"80"}}, map[string]string{"portNumber": "80", "note": "none"}},
	} {
		out, err := alice.StartSession(deadline(t), &ssm.StartSessionInput{
			Target: aws.String(nodeID), DocumentName: aws.String(test.document), Parameters: test.given, Reason: aws.String("test"),
		})
		if err != nil {
			t.Fatal(err)
		}
		got := agent.invited()
		if got.SessionID != *out.SessionId || got.DocumentName != test.document || got.DocumentContent.SessionType != "Port" {
			t.Errorf("invited to %+v for session %s of %s", got, *out.SessionId, test.document)
		}
		if diff := cmp.Diff(test.want, got.Parameters); diff != "" {
			t.Errorf("parameters of %s differ (-want +got):\n%s", test.document, diff)
		}
		if !strings.HasPrefix(*out.SessionId, "alice-") || !strings.HasSuffix(got.SessionOwner, "assumed-role/ssh/alice") {
			t.Errorf("session %s of %s does not name alice", *out.SessionId, got.SessionOwner)
		}
	}
}

func TestDescribeSessionsKnowsOpenAndEnded(t *testing.T) {
	s := start(t)
	talk := startTalk(t, s, person(t, s, "alice", "shop"))
	describe := func(state ssmtypes.SessionState) []ssmtypes.Session {
		t.Helper()
		out, err := ssmClient(gateway(t, s)).DescribeSessions(deadline(t), &ssm.DescribeSessionsInput{
			State: state, Filters: []ssmtypes.SessionFilter{{Key: ssmtypes.SessionFilterKeyTargetId, Value: aws.String(webID)}},
		})
		if err != nil {
			t.Fatal(err)
		}
		return out.Sessions
	}
	active := describe(ssmtypes.SessionStateActive)
	if len(active) != 1 || *active[0].SessionId != talk.id || active[0].Status != ssmtypes.SessionStatusConnected || len(describe(ssmtypes.SessionStateHistory)) != 0 {
		t.Errorf("active sessions %+v", active)
	}
	s.End(talk.id, "")
	ended := describe(ssmtypes.SessionStateHistory)
	if len(ended) != 1 || ended[0].Status != ssmtypes.SessionStatusTerminated || ended[0].EndDate == nil || len(describe(ssmtypes.SessionStateActive)) != 0 {
		t.Errorf("ended sessions %+v", ended)
	}
}

func TestManagedNodesAreOnlineWithTheirAgent(t *testing.T) {
	s := start(t)
	attachAgent(t, s, webID)
	client := ssmClient(gateway(t, s))
	out, err := client.DescribeInstanceInformation(deadline(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]ssmtypes.PingStatus{}
	for _, i := range out.InstanceInformationList {
		got[*i.InstanceId] = i.PingStatus
	}
	want := map[string]ssmtypes.PingStatus{webID: ssmtypes.PingStatusOnline, nodeID: ssmtypes.PingStatusConnectionLost}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("managed machines differ (-want +got):\n%s", diff)
	}
	for id, want := range map[string]ssmtypes.ConnectionStatus{webID: ssmtypes.ConnectionStatusConnected, nodeID: ssmtypes.ConnectionStatusNotConnected} {
		out, err := client.GetConnectionStatus(deadline(t), &ssm.GetConnectionStatusInput{Target: aws.String(id)})
		if err != nil || out.Status != want {
			t.Errorf("connection status of %s is %v, %v; want %s", id, out, err, want)
		}
	}
}

func TestGetDocument(t *testing.T) {
	s := start(t)
	client := ssmClient(gateway(t, s))
	out, err := client.GetDocument(deadline(t), &ssm.GetDocumentInput{Name: aws.String("OwnPorts")})
	if err != nil || *out.Content != ownDocument || out.DocumentType != ssmtypes.DocumentTypeSession {
		t.Errorf("document %+v, %v", out, err)
	}
	_, err = client.GetDocument(deadline(t), &ssm.GetDocumentInput{Name: aws.String("Missing")})
	wantCode(t, err, "InvalidDocument", "Missing")
}

// TestSessionsBelongToTheirOwner has another person try to end and to take over a session.
func TestSessionsBelongToTheirOwner(t *testing.T) {
	s := start(t)
	talk := startTalk(t, s, person(t, s, "alice", "shop"))
	bob := ssmClient(person(t, s, "bob", "shop"))
	_, err := bob.TerminateSession(deadline(t), &ssm.TerminateSessionInput{SessionId: aws.String(talk.id)})
	wantCode(t, err, "AccessDeniedException", "assumed-role/ssh/bob", talk.id)
	_, err = bob.ResumeSession(deadline(t), &ssm.ResumeSessionInput{SessionId: aws.String(talk.id)})
	wantCode(t, err, "AccessDeniedException", "ssm:ResumeSession")
	if got := info(t, s, talk.id).Status; got != awsemu.StatusConnected {
		t.Errorf("the session is %s", got)
	}
}

func TestDataKeysNeedTheirContext(t *testing.T) {
	s := start(t)
	alice := kmsClient(person(t, s, "alice", "shop"))
	encryption := map[string]string{"aws:ssm:SessionId": "alice-1", "aws:ssm:TargetId": webID}
	made, err := alice.GenerateDataKey(deadline(t), &kms.GenerateDataKeyInput{
		KeyId: aws.String("alias/sessions"), NumberOfBytes: aws.Int32(64), EncryptionContext: encryption,
	})
	if err != nil || len(made.Plaintext) != 64 {
		t.Fatalf("data key %+v, %v", made, err)
	}
	out, err := alice.Decrypt(deadline(t), &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: encryption})
	if err != nil || !bytes.Equal(out.Plaintext, made.Plaintext) || *out.KeyId != *made.KeyId {
		t.Errorf("decrypted to something else: %v", err)
	}
	_, err = alice.Decrypt(deadline(t), &kms.DecryptInput{CiphertextBlob: made.CiphertextBlob, EncryptionContext: map[string]string{"aws:ssm:SessionId": "alice-2"}})
	var invalid *kmstypes.InvalidCiphertextException
	if !errors.As(err, &invalid) {
		t.Errorf("a data key opens in another context: %v", err)
	}
	_, err = alice.GenerateDataKey(deadline(t), &kms.GenerateDataKeyInput{KeyId: aws.String("alias/none"), KeySpec: kmstypes.DataKeySpecAes256})
	wantCode(t, err, "NotFoundException", "alias/none")
	_, err = kmsClient(gateway(t, s)).GenerateDataKey(deadline(t), &kms.GenerateDataKeyInput{KeyId: aws.String("alias/sessions"), KeySpec: kmstypes.DataKeySpecAes256})
	wantCode(t, err, "AccessDeniedException", "kms:GenerateDataKey", "user/gateway")
}
