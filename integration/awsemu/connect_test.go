package awsemu_test

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

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
