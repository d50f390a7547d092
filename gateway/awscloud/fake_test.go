package awscloud

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
)

// fakeAWS answers calls with the wire forms that a test gives it, by action ("StartSession", "DescribeInstances"). The last answer is repeated.
type fakeAWS struct {
	*httptest.Server
	mu      sync.Mutex
	answers map[string][]fakeAnswer
	calls   map[string][]string // bodies, by action
}

type fakeAnswer struct {
	status int
	body   string
}

func newFakeAWS(t *testing.T) *fakeAWS {
	t.Helper()
	f := &fakeAWS{answers: map[string][]fakeAnswer{}, calls: map[string][]string{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return f
}

func (f *fakeAWS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	_, action, isJSON := strings.Cut(r.Header.Get("X-Amz-Target"), ".")
	if !isJSON {
		form, err := url.ParseQuery(string(body))
		if err != nil {
			return
		}
		action = form.Get("Action")
	}
	f.mu.Lock()
	f.calls[action] = append(f.calls[action], string(body))
	queue := f.answers[action]
	if len(queue) > 1 {
		f.answers[action] = queue[1:]
	}
	f.mu.Unlock()
	if len(queue) == 0 {
		http.Error(w, "no answer to "+action, http.StatusNotImplemented)
		return
	}
	if isJSON {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	} else {
		w.Header().Set("Content-Type", "text/xml")
	}
	w.WriteHeader(queue[0].status)
	_, _ = io.WriteString(w, queue[0].body)
}

func (f *fakeAWS) answer(action string, status int, body string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.answers[action] = append(f.answers[action], fakeAnswer{status, body})
}

func (f *fakeAWS) bodies(action string) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]string(nil), f.calls[action]...)
}

// jsonError, ec2Error and stsError are how the services say no (their SDK's response snapshots).
func jsonError(code string) string {
	return fmt.Sprintf(`{"__type":"com.amazon#%s","message":"told so"}`, code)
}

func ec2Error(code string) string {
	return `<Response><Errors><Error><Code>` + code + `</Code><Message>told so</Message></Error></Errors><RequestID>r</RequestID></Response>`
}

func stsError(code string) string {
	return `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>` + code +
		`</Code><Message>told so</Message></Error><RequestId>r</RequestId></ErrorResponse>`
}

// cloudAt makes a Cloud whose services are all at one URL, with static credentials.
func cloudAt(t *testing.T, endpoint string, cfg Config) *Cloud {
	t.Helper()
	if cfg.LoadConfig == nil {
		cfg.LoadConfig = staticConfig(endpoint, "AKIDEXAMPLE", "SECRETEXAMPLE")
	}
	c, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func staticConfig(endpoint, id, secret string) func(context.Context, string) (aws.Config, error) {
	return func(context.Context, string) (aws.Config, error) {
		return aws.Config{
			Region: "eu-west-1", BaseEndpoint: aws.String(endpoint), Credentials: credentials.NewStaticCredentialsProvider(id, secret, ""),
		}, nil
	}
}

func staticSession(endpoint string, c aws.Credentials) func(context.Context, string) (aws.Config, error) {
	return func(context.Context, string) (aws.Config, error) {
		return aws.Config{
			Region: "eu-west-1", BaseEndpoint: aws.String(endpoint),
			Credentials: credentials.NewStaticCredentialsProvider(c.AccessKeyID, c.SecretAccessKey, c.SessionToken),
		}, nil
	}
}
