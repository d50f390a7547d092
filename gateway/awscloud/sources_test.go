package awscloud

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// source is one way in which a machine has credentials.
type source struct {
	config string            // ~/.aws/config
	env    map[string]string // beside it; {URL} is the server below
	mfa    string            // the code that a person types
	want   string            // the access key that comes of it
	asked  []string          // what STS was asked for, in order: role or token, and MFA code
}

const sourceKeys = "[profile own]\naws_access_key_id = AKIAOWN\naws_secret_access_key = secret\n"

var sources = map[string]source{
	"environment": {env: map[string]string{"AWS_ACCESS_KEY_ID": "AKIAENV", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "t", "AWS_REGION": "eu-west-1"}, want: "AKIAENV"},
	"profile":     {config: sourceKeys + "region = eu-west-1\n", env: map[string]string{"AWS_PROFILE": "own"}, want: "AKIAOWN"},
	"a role that leads to a role": {
		config: sourceKeys + "[profile first]\nrole_arn = arn:aws:iam::111122223333:role/first\nsource_profile = own\n" +
			"[profile second]\nrole_arn = arn:aws:iam::444455556666:role/second\nsource_profile = first\nregion = eu-west-1\n",
		env: map[string]string{"AWS_PROFILE": "second"}, want: "AKIAROLE2",
		asked: []string{"arn:aws:iam::111122223333:role/first ", "arn:aws:iam::444455556666:role/second "},
	},
	"MFA": {
		config: sourceKeys + "[profile mfa]\nrole_arn = arn:aws:iam::111122223333:role/x\nsource_profile = own\nmfa_serial = arn:aws:iam::111122223333:mfa/me\nregion = eu-west-1\n",
		env:    map[string]string{"AWS_PROFILE": "mfa"}, mfa: "123456", want: "AKIAROLE1", asked: []string{"arn:aws:iam::111122223333:role/x 123456"},
	},
	"a program": {
		config: "[profile program]\nregion = eu-west-1\ncredential_process = cat {HOME}/process\n",
		env:    map[string]string{"AWS_PROFILE": "program"}, want: "AKIAPROGRAM",
	},
	"web identity": {
		env: map[string]string{
			"AWS_ROLE_ARN": "arn:aws:iam::111122223333:role/pod", "AWS_WEB_IDENTITY_TOKEN_FILE": "{HOME}/token", "AWS_ROLE_SESSION_NAME": "pod", "AWS_REGION": "eu-west-1",
		},
		want: "AKIAROLE1", asked: []string{"arn:aws:iam::111122223333:role/pod "},
	},
	"container": {env: map[string]string{"AWS_CONTAINER_CREDENTIALS_FULL_URI": "{URL}/container", "AWS_REGION": "eu-west-1"}, want: "AKIACONTAINER"},
	"instance": { // which knows its region, too
		env: map[string]string{"AWS_EC2_METADATA_DISABLED": "false", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "{URL}"}, want: "AKIAINSTANCE",
	},
}

// TestCredentialSources: credentials come from where AWS's own tools find them. SSO has TestLogin.
func TestCredentialSources(t *testing.T) {
	for name, s := range sources {
		t.Run(name, func(t *testing.T) {
			home := cleanEnvironment(t)
			world := &sourceWorld{}
			server := httptest.NewServer(world)
			defer server.Close()
			fill := strings.NewReplacer("{URL}", server.URL, "{HOME}", home)
			write(t, filepath.Join(home, "config"), fill.Replace(s.config))
			write(t, filepath.Join(home, "process"), `{"Version":1,"AccessKeyId":"AKIAPROGRAM","SecretAccessKey":"secret"}`)
			write(t, filepath.Join(home, "token"), "a token")
			t.Setenv("AWS_ENDPOINT_URL_STS", server.URL)
			for variable, value := range s.env {
				t.Setenv(variable, fill.Replace(value))
			}
			c, err := New(t.Context(), Config{Profile: s.env["AWS_PROFILE"], MFACode: func() (string, error) { return s.mfa, nil }})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			got, err := c.accounts[0].base.Credentials.Retrieve(t.Context())
			if err != nil || got.AccessKeyID != s.want {
				t.Errorf("the key is %q, want %q (%v)", got.AccessKeyID, s.want, err)
			}
			if region := c.accounts[0].home; region != "eu-west-1" {
				t.Errorf("the region is %q", region)
			}
			world.mu.Lock()
			defer world.mu.Unlock()
			if !slices.Equal(world.asked, s.asked) {
				t.Errorf("STS was asked for %q, want %q", world.asked, s.asked)
			}
		})
	}
}

// sourceWorld is STS, the container's agent and the instance's metadata (IMDSv2).
type sourceWorld struct {
	mu    sync.Mutex
	asked []string
}

func (s *sourceWorld) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	const expires = "2099-01-01T00:00:00Z"
	instance := `{"Code":"Success","LastUpdated":"2026-01-01T00:00:00Z","Type":"AWS-HMAC","AccessKeyId":"AKIAINSTANCE","SecretAccessKey":"s","Token":"t","Expiration":"` + expires + `"}`
	answers := map[string]string{
		"PUT /latest/api/token":                                  "a token",
		"GET /latest/meta-data/iam/security-credentials/":        "machine",
		"GET /latest/meta-data/iam/security-credentials/machine": instance,
		"GET /latest/dynamic/instance-identity/document":         `{"region":"eu-west-1"}`,
		"GET /container": `{"AccessKeyId":"AKIACONTAINER","SecretAccessKey":"s","Token":"t","Expiration":"` + expires + `"}`,
	}
	if answer, ok := answers[r.Method+" "+r.URL.Path]; ok {
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "21600")
		_, _ = fmt.Fprint(w, answer)
		return
	}
	if r.Method != http.MethodPost || r.URL.Path != "/" || r.ParseForm() != nil {
		http.NotFound(w, r)
		return
	}
	s.assume(w, r.PostForm, expires)
}

// assume answers AssumeRole and AssumeRoleWithWebIdentity with a key that counts them.
func (s *sourceWorld) assume(w http.ResponseWriter, form url.Values, expires string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked = append(s.asked, form.Get("RoleArn")+" "+form.Get("TokenCode"))
	action := form.Get("Action")
	_, _ = fmt.Fprintf(w, `<%[1]sResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><%[1]sResult><Credentials><AccessKeyId>AKIAROLE%[2]d</AccessKeyId>`+
		`<SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%[3]s</Expiration></Credentials></%[1]sResult></%[1]sResponse>`, action, len(s.asked), expires)
}
