package awsemu_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

const startBody = `{"Target":"` + webID + `"}`

// signed makes a StartSession request that is signed as the credentials say.
func signed(t *testing.T, s *awsemu.Server, c aws.Credentials, service string, at time.Time) *http.Request {
	t.Helper()
	request, err := http.NewRequestWithContext(deadline(t), http.MethodPost, s.URL()+"/", strings.NewReader(startBody))
	if err != nil {
		t.Fatal(err)
	}
	request.Close = true
	request.Header.Set("Content-Type", "application/x-amz-json-1.1")
	request.Header.Set("X-Amz-Target", "AmazonSSM.StartSession")
	sum := sha256.Sum256([]byte(startBody))
	if err := v4.NewSigner().SignHTTP(context.Background(), c, request, hex.EncodeToString(sum[:]), service, region, at); err != nil {
		t.Fatal(err)
	}
	return request
}

// TestSignatureIsVerified spoils a good request in every way that matters. What is not spoiled reaches authorization, so that AccessDenied is the
// sign of a good signature.
func TestSignatureIsVerified(t *testing.T) {
	s := start(t)
	role, err := stsClient(gateway(t, s)).AssumeRole(deadline(t), assumption("alice", "data"))
	if err != nil {
		t.Fatal(err)
	}
	session := aws.Credentials{
		AccessKeyID: *role.Credentials.AccessKeyId, SecretAccessKey: *role.Credentials.SecretAccessKey, SessionToken: *role.Credentials.SessionToken,
	}
	wrongSecret, noToken, wrongToken := session, session, session
	wrongSecret.SecretAccessKey += "x"
	noToken.SessionToken = ""
	wrongToken.SessionToken = "x" + wrongToken.SessionToken
	keep := func(*http.Request) {}
	for _, test := range []struct {
		name    string
		with    aws.Credentials
		service string
		at      time.Duration
		spoil   func(*http.Request)
		want    string
	}{
		{"good", session, "ssm", 0, keep, "AccessDeniedException"},
		{"good, four minutes old", session, "ssm", -4 * time.Minute, keep, "AccessDeniedException"},
		{"unsigned", session, "ssm", 0, func(r *http.Request) { r.Header.Del("Authorization") }, "MissingAuthenticationTokenException"},
		{"other scheme", session, "ssm", 0, func(r *http.Request) { r.Header.Set("Authorization", "Bearer x") }, "IncompleteSignatureException"},
		{"unknown key", aws.Credentials{AccessKeyID: "AKIAEMULATORUNKNOWN1", SecretAccessKey: "x"}, "ssm", 0, keep, "UnrecognizedClientException"},
		{"wrong secret", wrongSecret, "ssm", 0, keep, "InvalidSignatureException"},
		{"missing token", noToken, "ssm", 0, keep, "UnrecognizedClientException"},
		{"wrong token", wrongToken, "ssm", 0, keep, "UnrecognizedClientException"},
		{"token taken off", session, "ssm", 0, func(r *http.Request) { r.Header.Del("X-Amz-Security-Token") }, "InvalidSignatureException"},
		{"too old", session, "ssm", -6 * time.Minute, keep, "InvalidSignatureException"},
		{"from the future", session, "ssm", 6 * time.Minute, keep, "InvalidSignatureException"},
		{"for another service", session, "ec2", 0, keep, "InvalidSignatureException"},
		{"body changed", session, "ssm", 0, func(r *http.Request) {
			body := strings.Replace(startBody, webID, dbID, 1)
			r.Body, r.GetBody = io.NopCloser(strings.NewReader(body)), nil
		}, "InvalidSignatureException"},
		{"target changed", session, "ssm", 0, func(r *http.Request) { r.Header.Set("X-Amz-Target", "AmazonSSM.TerminateSession") }, "InvalidSignatureException"},
		{"query added", session, "ssm", 0, func(r *http.Request) { r.URL.RawQuery = "x=y" }, "InvalidSignatureException"},
		{"path changed", session, "ssm", 0, func(r *http.Request) { r.URL.Path = "/x" }, "InvalidSignatureException"},
		{"unsigned amz header", session, "ssm", 0, func(r *http.Request) { r.Header.Set("X-Amz-Extra", "y") }, "InvalidSignatureException"},
		{"date moved", session, "ssm", 0, func(r *http.Request) {
			r.Header.Set("X-Amz-Date", time.Now().Add(time.Second).UTC().Format("20060102T150405Z"))
		}, "InvalidSignatureException"},
	} {
		t.Run(test.name, func(t *testing.T) {
			request := signed(t, s, test.with, test.service, time.Now().Add(test.at))
			test.spoil(request)
			if got := errorType(t, request); got != test.want {
				t.Errorf("got %s, want %s", got, test.want)
			}
		})
	}
}

func errorType(t *testing.T, request *http.Request) string {
	t.Helper()
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	if response.Header.Get(awsemu.HeaderEmulator) != "yes" {
		t.Error("the answer does not say that it is the emulator's")
	}
	body, err := io.ReadAll(response.Body)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(body, []byte(response.Header.Get("X-Amzn-Errortype"))) {
		t.Errorf("header and body differ about the error: %s", body)
	}
	return response.Header.Get("X-Amzn-Errortype")
}

func TestCredentialsExpire(t *testing.T) {
	var clock clock
	s := start(t, clock.use)
	out, err := stsClient(gateway(t, s)).AssumeRole(deadline(t), assumption("alice", "shop"))
	if err != nil {
		t.Fatal(err)
	}
	session := aws.Credentials{
		AccessKeyID: *out.Credentials.AccessKeyId, SecretAccessKey: *out.Credentials.SecretAccessKey, SessionToken: *out.Credentials.SessionToken,
	}
	clock.advance(time.Hour)
	if got := errorType(t, signed(t, s, session, "ssm", clock.now())); got != "ExpiredTokenException" {
		t.Errorf("an hour later: %s", got)
	}
	clock.advance(-time.Hour)
	again := person(t, s, "bob", "shop")
	if s.Expire("bob") != 1 {
		t.Error("bob has no credentials to expire")
	}
	_, err = stsClient(again).GetCallerIdentity(deadline(t), nil)
	wantCode(t, err, "ExpiredToken")
}

// TestProtocolsSpellErrorsTheirWay has a wrong secret refused by each service.
func TestProtocolsSpellErrorsTheirWay(t *testing.T) {
	s := start(t)
	wrong, unknown := sdk(t, s, gatewayKey, "wrong", ""), sdk(t, s, "AKIAEMULATORUNKNOWN1", "wrong", "")
	_, err := stsClient(wrong).GetCallerIdentity(deadline(t), nil)
	wantCode(t, err, "SignatureDoesNotMatch")
	_, err = stsClient(unknown).GetCallerIdentity(deadline(t), nil)
	wantCode(t, err, "InvalidClientTokenId")
	_, err = ec2Client(wrong).DescribeInstances(deadline(t), nil)
	wantCode(t, err, "SignatureDoesNotMatch")
	_, err = ec2Client(unknown).DescribeInstances(deadline(t), nil)
	wantCode(t, err, "AuthFailure")
	_, err = ssmClient(unknown).DescribeInstanceInformation(deadline(t), nil)
	wantCode(t, err, "UnrecognizedClientException")
	for _, c := range s.Calls() {
		if c.Principal != "" || c.Error == "" {
			t.Errorf("a call that nobody signed is in the log as %+v", c)
		}
	}
}
