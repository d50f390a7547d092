package awscloud

import (
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const ssoProfiles = `[profile sso]
sso_session = corp
sso_account_id = 111122223333
sso_role_name = dev
region = eu-west-1
[sso-session corp]
sso_start_url = https://corp.awsapps.com/start
sso_region = eu-west-1
[profile plain]
region = eu-west-1
`

// identityCenter is IAM Identity Center as far as a login and one credential need it: the person agrees after having been asked twice.
func identityCenter(t *testing.T) {
	t.Helper()
	var asked atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := func(status int, body string) {
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(status)
			_, _ = w.Write([]byte(body))
		}
		switch r.URL.Path {
		case "/client/register":
			answer(http.StatusOK, `{"clientId":"client","clientSecret":"secret","clientSecretExpiresAt":4102444800}`)
		case "/device_authorization":
			answer(http.StatusOK, `{"deviceCode":"device","userCode":"ABCD-EFGH","verificationUriComplete":"https://device.sso/?user_code=ABCD-EFGH","expiresIn":600,"interval":1}`)
		case "/token":
			if asked.Add(1) == 1 {
				w.Header().Set("X-Amzn-ErrorType", "AuthorizationPendingException")
				answer(http.StatusBadRequest, `{"error":"authorization_pending"}`)
				return
			}
			answer(http.StatusOK, `{"accessToken":"the-token","refreshToken":"the-refresh","expiresIn":3600,"tokenType":"Bearer"}`)
		case "/federation/credentials":
			if r.Header.Get("x-amz-sso_bearer_token") != "the-token" {
				w.Header().Set("X-Amzn-ErrorType", "UnauthorizedException")
				answer(http.StatusUnauthorized, `{"message":"Session token not found or invalid"}`)
				return
			}
			answer(http.StatusOK, `{"roleCredentials":{"accessKeyId":"AKIASSO","secretAccessKey":"s","sessionToken":"t","expiration":4102444800000}}`)
		default:
			http.NotFound(w, r)
		}
	}))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_SSO_OIDC", server.URL)
	t.Setenv("AWS_ENDPOINT_URL_SSO", server.URL)
}

// TestLogin has the token of a login used by the SDK's own chain, which says before that there is none.
func TestLogin(t *testing.T) {
	home := cleanEnvironment(t)
	t.Setenv("HOME", home)
	t.Setenv("USERPROFILE", home)
	file := filepath.Join(home, "config")
	write(t, file, ssoProfiles)
	t.Setenv("AWS_CONFIG_FILE", file)
	identityCenter(t)
	c, err := New(t.Context(), Config{Profile: "sso"})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }()
	cached, err := ssocreds.StandardCachedTokenFilepath("corp")
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"no login":           "",
		"an old login":       `{"accessToken":"old","expiresAt":"2020-01-01T00:00:00Z"}`,
		"a login taken back": `{"accessToken":"revoked","expiresAt":"2099-01-01T00:00:00Z"}`,
	} {
		if text != "" {
			if err := os.MkdirAll(filepath.Dir(cached), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, cached, text)
		}
		var refusal *authz.Refusal
		if _, err := c.CallerIdentity(t.Context()); !errors.As(err, &refusal) || refusal.Reason != authz.ReasonCredentials || !errors.Is(err, ErrLoginExpired) {
			t.Errorf("%s: %v", name, err)
		}
		_ = os.Remove(cached)
	}
	var told LoginPrompt
	expires, err := Login(t.Context(), "sso", func(p LoginPrompt) { told = p })
	if err != nil || expires.IsZero() {
		t.Fatal(expires, err)
	}
	if !strings.Contains(told.URL, told.Code) || told.Code != "ABCD-EFGH" {
		t.Errorf("the person is told %+v", told)
	}
	credentials, err := c.accounts[0].base.Credentials.Retrieve(t.Context())
	if err != nil || credentials.AccessKeyID != "AKIASSO" {
		t.Errorf("after the login: %q, %v", credentials.AccessKeyID, err)
	}
	files, _ := filepath.Glob(filepath.Join(home, ".aws", "sso", "cache", "*"))
	if len(files) != 1 {
		t.Fatalf("files in the cache: %v", files)
	}
	if info, err := os.Stat(files[0]); err != nil || info.Mode().Perm()&0o077 != 0 {
		t.Errorf("others can read the token: %v, %v", info.Mode(), err)
	}
	text, err := os.ReadFile(files[0])
	if err != nil {
		t.Fatal(err)
	}
	var kept map[string]string
	if err := json.Unmarshal(text, &kept); err != nil || kept["startUrl"] != "https://corp.awsapps.com/start" || kept["refreshToken"] != "the-refresh" || kept["clientId"] != "client" {
		t.Errorf("%v: %s", err, text)
	}
}

func TestLoginNowhere(t *testing.T) {
	home := cleanEnvironment(t)
	file := filepath.Join(home, "config")
	write(t, file, ssoProfiles)
	t.Setenv("AWS_CONFIG_FILE", file)
	ask := func(LoginPrompt) { t.Error("the person is asked") }
	if _, err := Login(t.Context(), "plain", ask); !errors.Is(err, ErrNoSSO) {
		t.Errorf("a profile without SSO: %v", err)
	}
	if _, err := Login(t.Context(), "absent", ask); err == nil || !strings.Contains(err.Error(), "absent") {
		t.Errorf("a profile that is not there: %v", err)
	}
}
