package awsemu_test

import (
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	ssmtypes "github.com/aws/aws-sdk-go-v2/service/ssm/types"
	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

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
		{
			"AWS-StartPortForwardingSessionToRemoteHost",
			map[string][]string{"host": {"db.internal"}, "portNumber": {"5432"}},
			map[string]string{"host": "db.internal", "portNumber": "5432", "localPortNumber": "0"},
		},
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
