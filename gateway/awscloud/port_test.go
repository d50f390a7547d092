package awscloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

type startRequest struct {
	Target, DocumentName, Reason string
	Parameters                   map[string][]string
}

// TestDocuments: which document opens which port, and what it is given.
func TestDocuments(t *testing.T) {
	for _, test := range []struct {
		name    string
		account Account
		port    int
		want    startRequest
	}{
		{"AWS's own, ssh", Account{}, 22, startRequest{DocumentName: "AWS-StartSSHSession", Parameters: map[string][]string{"portNumber": {"22"}}}},
		{"AWS's own, other", Account{}, 5432, startRequest{DocumentName: "AWS-StartPortForwardingSession", Parameters: map[string][]string{"portNumber": {"5432"}}}},
		{
			"a company's own",
			Account{SSHDocument: "Corp-SSH", PortDocument: "Corp-Port", PortParameter: "port"},
			80,
			startRequest{DocumentName: "Corp-Port", Parameters: map[string][]string{"port": {"80"}}},
		},
		{"without parameter", Account{SSHDocument: "Corp-SSH", SSHFixedPort: true}, 22, startRequest{DocumentName: "Corp-SSH"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake := newFakeAWS(t)
			fake.answer("StartSession", http.StatusOK, startSessionAnswer)
			test.account.ID = testInstance.Account
			c := cloudAt(t, fake.URL, Config{Accounts: []Account{test.account}})
			if _, err := c.StartPort(t.Context(), authz.Role{}, testInstance, test.port, ""); err != nil {
				t.Fatal(err)
			}
			var got startRequest
			if err := json.Unmarshal([]byte(fake.bodies("StartSession")[0]), &got); err != nil {
				t.Fatal(err)
			}
			test.want.Target = testInstance.ID
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestGrant: what the data channel gets, and that the token cannot be printed by accident.
func TestGrant(t *testing.T) {
	fake := newFakeAWS(t)
	fake.answer("StartSession", http.StatusOK, startSessionAnswer)
	c := cloudAt(t, fake.URL, Config{})
	grant, err := c.StartPort(t.Context(), authz.Role{}, testInstance, 22, "  alice\nref-7 "+strings.Repeat("ü", 300))
	if err != nil {
		t.Fatal(err)
	}
	if grant.SessionID != "alice-0123456789abcdef0" || grant.Token.Reveal() != "SECRET-TOKEN" ||
		grant.StreamURL != "wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/alice-0123456789abcdef0?role=publish_subscribe" {
		t.Errorf("got session %q at %q", grant.SessionID, grant.StreamURL)
	}
	if text := fmt.Sprintf("%v %+v %#v", grant, grant, grant); strings.Contains(text, "SECRET-TOKEN") {
		t.Error("the grant prints its token")
	}
	var sent startRequest
	if err := json.Unmarshal([]byte(fake.bodies("StartSession")[0]), &sent); err != nil {
		t.Fatal(err)
	}
	if reason := []rune(sent.Reason); len(reason) != 256 || !strings.HasPrefix(sent.Reason, "alice ref-7 üü") {
		t.Errorf("sent a reason of %d characters: %s", len(reason), sent.Reason)
	}
}

func TestStreamURL(t *testing.T) {
	const plain = "wss://ssmmessages.us-east-1.amazonaws.com/v1/data-channel/x?role=publish_subscribe"
	for _, test := range []struct {
		received string
		fips     bool
		want     string
	}{
		{plain, false, plain},
		{plain, true, strings.Replace(plain, "ssmmessages.", "ssmmessages-fips.", 1)},
		{"wss://ssmmessages-fips.us-east-1.amazonaws.com/x", true, "wss://ssmmessages-fips.us-east-1.amazonaws.com/x"},
		{"ws://127.0.0.1:8080/v1/data-channel/x", true, "ws://127.0.0.1:8080/v1/data-channel/x"},
	} {
		if got := streamURL(test.received, test.fips); got != test.want {
			t.Errorf("%s: got %s, want %s", test.received, got, test.want)
		}
	}
}

func TestResume(t *testing.T) {
	for _, test := range []struct {
		name   string
		status int
		body   string
		over   bool
		token  string
	}{
		{"disconnected", 200, `{"SessionId":"s","TokenValue":"FRESH","StreamUrl":"wss://elsewhere"}`, false, "FRESH"},
		{"ended", 200, `{"SessionId":"s"}`, true, ""},
		{"unknown", 400, jsonError("DoesNotExistException"), true, ""},
		{"no longer allowed", 400, jsonError("AccessDeniedException"), true, ""},
		{"a fault of the service", 500, jsonError("InternalServerError"), false, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			fake := newFakeAWS(t)
			fake.answer("StartSession", http.StatusOK, startSessionAnswer)
			fake.answer("ResumeSession", test.status, test.body)
			grant, err := cloudAt(t, fake.URL, Config{MaxAttempts: 1}).StartPort(t.Context(), authz.Role{}, testInstance, 22, "")
			if err != nil {
				t.Fatal(err)
			}
			token, err := grant.Resume(t.Context(), grant.SessionID)
			if errors.Is(err, ssmproto.ErrSessionOver) != test.over || token.Reveal() != test.token || (err == nil) != (test.token != "") {
				t.Errorf("got token %q and %v", token.Reveal(), err)
			}
		})
	}
}

// TestTerminate works although everything around it has been canceled, and is content with a session that is gone already.
func TestTerminate(t *testing.T) {
	fake := newFakeAWS(t)
	fake.answer("StartSession", http.StatusOK, startSessionAnswer)
	fake.answer("TerminateSession", http.StatusOK, `{"SessionId":"s"}`)
	fake.answer("TerminateSession", http.StatusBadRequest, jsonError("DoesNotExistException"))
	fake.answer("TerminateSession", http.StatusBadRequest, jsonError("AccessDeniedException"))
	grant, err := cloudAt(t, fake.URL, Config{}).StartPort(t.Context(), authz.Role{}, testInstance, 22, "")
	if err != nil {
		t.Fatal(err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	for range 2 {
		if err := grant.Terminate(ended, grant.SessionID); err != nil {
			t.Errorf("terminating: %v", err)
		}
	}
	if err := grant.Terminate(ended, grant.SessionID); err == nil {
		t.Error("a refused TerminateSession is no error")
	}
	if n := len(fake.bodies("TerminateSession")); n != 3 {
		t.Errorf("TerminateSession was sent %d times", n)
	}
}

func TestSign(t *testing.T) {
	fake := newFakeAWS(t)
	fake.answer("StartSession", http.StatusOK, startSessionAnswer)
	grant, err := cloudAt(t, fake.URL, Config{}).StartPort(t.Context(), authz.Role{}, testInstance, 22, "")
	if err != nil {
		t.Fatal(err)
	}
	upgrade := func(url string) http.Header {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Sec-WebSocket-Protocol", "x")
		if err := grant.Sign(t.Context(), req); err != nil {
			t.Fatal(err)
		}
		return req.Header
	}
	got := upgrade(grant.StreamURL)
	authorization := got.Get("Authorization")
	if !strings.Contains(authorization, "/eu-west-1/ssmmessages/aws4_request") || !strings.Contains(authorization, "SignedHeaders=host;x-amz-date,") || got.Get("X-Amz-Date") == "" {
		t.Errorf("signed as %q", authorization)
	}
	if got := upgrade(grant.StreamURL + "&X-Amz-Signature=abc"); got.Get("Authorization") != "" {
		t.Error("a URL that is signed already is signed again")
	}
}
