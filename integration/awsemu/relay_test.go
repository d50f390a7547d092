package awsemu_test

import (
	"bytes"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

func assumption(name, team string) *sts.AssumeRoleInput {
	return &sts.AssumeRoleInput{
		RoleArn: aws.String(personRole), RoleSessionName: aws.String(name), SourceIdentity: aws.String(name),
		Tags: []ststypes.Tag{{Key: aws.String("team"), Value: aws.String(team)}},
	}
}

// TestRelayForwardsBytesUnchanged sends a message each way and compares frames, not meanings.
func TestRelayForwardsBytesUnchanged(t *testing.T) {
	s := start(t)
	talk := startTalk(t, s, person(t, s, "alice", "shop"))
	for _, way := range []struct {
		from, to *peer
		kind     ssmproto.MessageType
	}{
		{talk.client, talk.agent, ssmproto.InputStreamData},
		{talk.agent, talk.client, ssmproto.OutputStreamData},
		{talk.client, talk.agent, ssmproto.Acknowledge},
		{talk.agent, talk.client, ssmproto.Acknowledge},
	} {
		sent := way.from.send(way.kind, 7, "payload")
		got, err := way.to.raw()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(sent, got) {
			t.Errorf("%s changed on the way:\nsent %x\ngot  %x", way.kind, sent, got)
		}
	}
}

func TestTerminateClosesBothSides(t *testing.T) {
	s := start(t)
	alice := person(t, s, "alice", "shop")
	talk := startTalk(t, s, alice)
	if _, err := ssmClient(alice).TerminateSession(deadline(t), &ssm.TerminateSessionInput{SessionId: aws.String(talk.id)}); err != nil {
		t.Fatal(err)
	}
	talk.client.expect(ssmproto.ChannelClosed)
	talk.agent.expect(ssmproto.ChannelClosed)
	waitInfo(t, s, talk.id, func(i awsemu.SessionInfo) bool { return i.Status == awsemu.StatusTerminated })
	out, err := ssmClient(alice).ResumeSession(deadline(t), &ssm.ResumeSessionInput{SessionId: aws.String(talk.id)})
	if err != nil || out.TokenValue != nil {
		t.Errorf("resuming a session that is over gave token %v and error %v, want neither", aws.ToString(out.TokenValue), err)
	}
}
