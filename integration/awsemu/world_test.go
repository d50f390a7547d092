package awsemu_test

import (
	"context"
	"net/http"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"go.uber.org/goleak"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

type config = awsemu.Config

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	account = "111122223333"
	region  = "eu-central-1"

	gatewayKey    = "AKIAEMULATORGATEWAY1"
	gatewaySecret = "emulated-secret-of-the-gateway"
	nobodyKey     = "AKIAEMULATORNOBODY01"
	nobodySecret  = "emulated-secret-of-nobody"

	webID     = "i-0123456789abcdef0"
	dbID      = "i-0123456789abcdef1"
	stoppedID = "i-0123456789abcdef2"
	nodeID    = "mi-0123456789abcdef0"

	personRole = "arn:aws:iam::" + account + ":role/people/ssh"
	otherRole  = "arn:aws:iam::" + account + ":role/other"
)

// personPolicy is the role policy that the notes on IAM recommend, so that a mistake in its reading shows here.
const personPolicy = `{"Version":"2012-10-17","Statement":[
 {"Effect":"Allow","Action":"ssm:StartSession","Resource":["arn:aws:ec2:*:*:instance/*","arn:aws:ssm:*:*:managed-instance/*"],
  "Condition":{"StringEquals":{"ssm:resourceTag/team":"${aws:PrincipalTag/team}"},"BoolIfExists":{"ssm:SessionDocumentAccessCheck":"true"}}},
 {"Effect":"Allow","Action":"ssm:StartSession","Resource":["arn:aws:ssm:*::document/AWS-Start*","arn:aws:ssm:*:111122223333:document/Own*"]},
 {"Effect":"Allow","Action":["ssm:TerminateSession","ssm:ResumeSession"],"Resource":"*",
  "Condition":{"StringLike":{"ssm:resourceTag/aws:ssmmessages:session-id":"${aws:userid}"}}},
 {"Effect":"Allow","Action":"ec2-instance-connect:SendSSHPublicKey","Resource":"arn:aws:ec2:*:111122223333:instance/*",
  "Condition":{"StringEquals":{"ec2:osuser":["ec2-user","ubuntu"],"aws:ResourceTag/team":"${aws:PrincipalTag/team}"}}},
 {"Effect":"Allow","Action":["ec2:GetConsoleOutput","kms:*","sts:AssumeRole","ssm:GetConnectionStatus", "ssm:ListTagsForResource"],"Resource":"*"}]}`

const gatewayPolicy = `{"Version":"2012-10-17","Statement":[
 {"Effect":"Allow","Action":["sts:AssumeRole","sts:TagSession","sts:SetSourceIdentity"],"Resource":"arn:aws:iam::*:role/people/*"},
 {"Effect":"Allow","Action":["ec2:Describe*","ssm:Describe*","ssm:GetConnectionStatus", "ssm:ListTagsForResource","ssm:GetDocument"],"Resource":"*"}]}`

const ownDocument = `{"schemaVersion":"1.0","sessionType":"Port","parameters":{"portNumber":{"type":"String","allowedValues":["22","80"]},` +
	`"note":{"type":"String","default":"none","minChars":2,"maxChars":5}},"properties":{"portNumber":"{{ portNumber }}"}}`

// testConfig is a small company: a gateway, a role for people, two teams' machines.
func testConfig() config {
	gateway := "arn:aws:iam::" + account + ":user/gateway"
	return config{
		Delay: -1,
		Accounts: []awsemu.Account{{
			ID: account,
			Users: []awsemu.User{
				{Name: "gateway", AccessKeyID: gatewayKey, SecretAccessKey: gatewaySecret, Policy: awsemu.MustParsePolicy(gatewayPolicy)},
				{Name: "nobody", AccessKeyID: nobodyKey, SecretAccessKey: nobodySecret},
			},
			Roles: []awsemu.Role{
				{Name: "ssh", Path: "/people/", Trust: awsemu.Trust(gateway), Policy: awsemu.MustParsePolicy(personPolicy), MaxSession: 2 * time.Hour},
				{Name: "other", Trust: awsemu.Trust(personRole), MaxSession: 12 * time.Hour},
			},
			Instances: []awsemu.Instance{
				{
					ID: webID, Region: region, Tags: map[string]string{"Name": "web", "team": "shop"}, PrivateIP: "10.0.0.1",
					PrivateDNS: "ip-10-0-0-1.eu-central-1.compute.internal", Console: "booting\nready\n",
				},
				{ID: dbID, Region: region, Tags: map[string]string{"Name": "db", "team": "data"}, PrivateIP: "10.0.0.2"},
				{ID: stoppedID, Region: region, Tags: map[string]string{"Name": "old", "team": "shop"}, State: awsemu.StateStopped},
			},
			Nodes:     []awsemu.Node{{ID: nodeID, Region: region, Name: "rack-1", IP: "192.168.1.5", Tags: map[string]string{"team": "shop"}}},
			Documents: []awsemu.Document{{Name: "OwnPorts", Region: region, Content: ownDocument}},
			Keys:      []awsemu.Key{{ID: "00000000-0000-4000-8000-000000000001", Region: region, Alias: "alias/sessions"}},
		}},
	}
}

// start runs an emulator for one test. Options change its world.
func start(t testing.TB, options ...func(*config)) *awsemu.Server {
	t.Helper()
	cfg := testConfig()
	for _, option := range options {
		option(&cfg)
	}
	s, err := awsemu.Start(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Errorf("closing the emulator: %v", err)
		}
	})
	return s
}

// deadline is a context long enough for anything on loopback.
func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), testkit.Patience)
	t.Cleanup(cancel)
	return ctx
}

// sdk is a configuration of the AWS SDK for one set of credentials, without retries so that errors come as they are.
func sdk(t testing.TB, s *awsemu.Server, key, secret, token string) aws.Config {
	t.Helper()
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	var endpoint *string // the caller's to set without an emulator
	if s != nil {
		endpoint = aws.String(s.URL())
	}
	return aws.Config{
		Region: region, BaseEndpoint: endpoint, HTTPClient: &http.Client{Transport: transport},
		Credentials: credentials.NewStaticCredentialsProvider(key, secret, token), Retryer: func() aws.Retryer { return aws.NopRetryer{} },
	}
}

// gateway is the configuration of the gateway's own user.
func gateway(t testing.TB, s *awsemu.Server) aws.Config {
	return sdk(t, s, gatewayKey, gatewaySecret, "")
}

// person assumes the role for people as somebody of a team.
func person(t testing.TB, s *awsemu.Server, name, team string) aws.Config {
	t.Helper()
	out, err := sts.NewFromConfig(gateway(t, s)).AssumeRole(deadline(t), assumption(name, team))
	if err != nil {
		t.Fatal(err)
	}
	return sdk(t, s, *out.Credentials.AccessKeyId, *out.Credentials.SecretAccessKey, *out.Credentials.SessionToken)
}

var (
	ec2Client     = func(c aws.Config) *ec2.Client { return ec2.NewFromConfig(c) }
	connectClient = func(c aws.Config) *ec2instanceconnect.Client { return ec2instanceconnect.NewFromConfig(c) }
	ssmClient     = func(c aws.Config) *ssm.Client { return ssm.NewFromConfig(c) }
	stsClient     = func(c aws.Config) *sts.Client { return sts.NewFromConfig(c) }
	kmsClient     = func(c aws.Config) *kms.Client { return kms.NewFromConfig(c) }
)

// clock is a time that tests move.
type clock struct{ ahead atomic.Int64 }

func (c *clock) now() time.Time          { return time.Now().Add(time.Duration(c.ahead.Load())) }
func (c *clock) advance(d time.Duration) { c.ahead.Add(int64(d)) }
func (c *clock) use(cfg *config)         { cfg.Now = c.now }
