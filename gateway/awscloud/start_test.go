package awscloud

import (
	"errors"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// TestStartSession: a role that is narrowed to one machine may use the document it is asked for, the account's shell included, and is still not let
// near another machine.
func TestStartSession(t *testing.T) {
	server := worldOf(t, awsemu.Config{})
	attach(t, server, webID, "eu-west-1")
	c := cloudIn(t, server, Config{})
	on := mustResolve(t, c, webID)
	for name, purpose := range map[string]Purpose{
		"shell":       {},
		"command":     {Document: CommandDocument, Parameters: map[string][]string{"command": {"true"}}},
		"remote host": {Document: RemoteHostDocument, Parameters: map[string][]string{"host": {"db.internal"}, "portNumber": {"5432"}}},
	} {
		grant, err := c.StartSession(t.Context(), person(prodRole, "alice", nil), on, purpose)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := grant.Terminate(t.Context(), grant.SessionID); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	asked := len(callsOf(server, "StartSession"))
	_, err := c.StartSession(t.Context(), person(prodRole, "alice", nil), on, Purpose{Document: "no document's name"})
	var refusal *authz.Refusal
	if !errors.As(err, &refusal) || refusal.Reason != authz.ReasonDocument || len(callsOf(server, "StartSession")) != asked {
		t.Errorf("a name that cannot be: %v", err)
	}
}

// TestMFA has a profile with an mfa_serial ask, and say what is missing where nobody can be asked.
func TestMFA(t *testing.T) {
	home := cleanEnvironment(t)
	file := home + "/config"
	write(t, file, `[profile mfa]
region = eu-west-1
role_arn = arn:aws:iam::111122223333:role/dev
source_profile = own
mfa_serial = arn:aws:iam::111122223333:mfa/me
[profile own]
aws_access_key_id = AKIAOWN
aws_secret_access_key = secret
`)
	t.Setenv("AWS_CONFIG_FILE", file)
	fake := newFakeAWS(t)
	t.Setenv("AWS_ENDPOINT_URL", fake.URL)
	nobody := errors.New("nobody is there")
	asked := 0
	c, err := New(t.Context(), Config{Profile: "mfa", MFACode: func() (string, error) { asked++; return "", nobody }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	if _, err := c.CallerIdentity(t.Context()); !errors.Is(err, nobody) || asked == 0 {
		t.Errorf("asked %d times: %v", asked, err)
	}
	if _, err := New(t.Context(), Config{Profile: "mfa"}); err == nil {
		t.Error("a profile that needs a code is taken where nobody can be asked")
	}
}
