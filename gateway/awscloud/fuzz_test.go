package awscloud

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// scripted answers every call of an action with the same bytes, without a network.
type scripted struct{ status, start, resume atomic.Value }

func (s *scripted) RoundTrip(r *http.Request) (*http.Response, error) {
	body, status := s.start.Load().([]byte), http.StatusOK
	if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".ResumeSession") {
		body, status = s.resume.Load().([]byte), s.status.Load().(int)
	}
	return &http.Response{
		StatusCode: status, Status: http.StatusText(status), Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r,
		Header: http.Header{"Content-Type": {"application/x-amz-json-1.1"}}, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)),
	}, nil
}

// FuzzSessionAnswers has StartSession and ResumeSession answer anything: the grant is made or refused, a resumption gives a token or an error and never
// both or neither, and no token can be read anywhere.
func FuzzSessionAnswers(f *testing.F) {
	script := &scripted{}
	cloud, err := New(f.Context(), Config{MaxAttempts: 1, UseFIPS: true, StartRate: Rate{PerSecond: 1e9, Burst: 1 << 30}, LoadConfig: func(context.Context, string) (aws.Config, error) {
		return aws.Config{
			Region: "eu-west-1", BaseEndpoint: aws.String("http://aws.invalid"), HTTPClient: &http.Client{Transport: script},
			Credentials: credentials.NewStaticCredentialsProvider("AKIDEXAMPLE", "SECRETEXAMPLE", ""),
		}, nil
	}})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { _ = cloud.Close() })
	f.Add([]byte(startSessionAnswer), []byte(`{"SessionId":"s","StreamUrl":"wss://x","TokenValue":"fresh-token"}`), 200)
	f.Add([]byte(`{"StreamUrl":"wss://ssmmessages.eu-west-1.amazonaws.com/%zz"}`), []byte(`{"SessionId":"s"}`), 200)
	f.Add([]byte(`{}`), []byte(jsonError("DoesNotExistException")), 400)
	f.Add([]byte(`{"TokenValue":null}`), []byte(jsonError("AccessDeniedException")), 400)
	f.Add([]byte(`[`), []byte(`<html>`), 503)
	f.Fuzz(func(t *testing.T, start, resume []byte, status int) {
		if status < 200 || status > 599 {
			return
		}
		script.start.Store(start)
		script.resume.Store(resume)
		script.status.Store(status)
		grant, err := cloud.StartSession(t.Context(), authz.Role{}, testInstance, Purpose{})
		if err != nil {
			var refusal *authz.Refusal
			if !errors.As(err, &refusal) {
				t.Errorf("no refusal: %v", err)
			}
			return
		}
		hidden(t, grant.Token)
		token, err := grant.Resume(t.Context(), grant.SessionID)
		if (token.Reveal() == "") != (err != nil) {
			t.Errorf("a token of %d bytes and %v", len(token.Reveal()), err)
		}
		hidden(t, token)
	})
}

func hidden(t *testing.T, token ssmproto.Token) {
	t.Helper()
	if text := token.Reveal(); len(text) > 0 && fmt.Sprintf("%v %+v %#v", token, token, token) != "[redacted] [redacted] ssmproto.Token{[redacted]}" {
		t.Errorf("the token prints as %v", token)
	}
}

// FuzzStreamURL: who asked for FIPS endpoints gets no other of Session Manager's, and the rest of the address as it was; everybody else gets what came.
func FuzzStreamURL(f *testing.F) {
	f.Add("wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/a?role=publish_subscribe")
	f.Add("wss://ssmmessages-fips.us-east-1.amazonaws.com/v1/data-channel/a?stream=input")
	f.Add("wss://127.0.0.1:8443/%2f?X-Amz-Signature=abc#x")
	f.Add("wss://[::1%25eth0]/")
	f.Add("ssmmessages.")
	f.Fuzz(func(t *testing.T, received string) {
		if got := streamURL(received, false); got != received {
			t.Errorf("%q became %q", received, got)
		}
		got := streamURL(received, true)
		if again := streamURL(got, true); again != got {
			t.Errorf("%q became %q and then %q", received, got, again)
		}
		if u, err := url.Parse(got); err == nil && strings.HasPrefix(u.Host, "ssmmessages.") {
			t.Errorf("%q stayed outside FIPS: %q", received, got)
		}
	})
}
