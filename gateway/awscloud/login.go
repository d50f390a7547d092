package awscloud

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
	"github.com/aws/aws-sdk-go-v2/service/ssooidc"
)

// The device flow of RFC 8628, as IAM Identity Center has it.
const (
	loginClient     = "ssm-ssh-gateway"
	loginScope      = "sso:account:access" // what the AWS command line registers for
	deviceGrant     = "urn:ietf:params:oauth:grant-type:device_code"
	refreshGrant    = "refresh_token"
	defaultInterval = 5 * time.Second // RFC 8628 §3.5, when the server names none; also what slow_down adds
)

// LoginPrompt is what a person has to do for a login.
type LoginPrompt struct {
	URL  string // has the code in it
	Code string // to compare with what the page shows
}

// ErrNoSSO says that a profile has nothing to log in to.
var ErrNoSSO = errors.New("the profile has no sso_session and no sso_start_url")

// Login logs in to the IAM Identity Center of a profile (empty: AWS_PROFILE or "default") and keeps the token where AWS's tools look for it. It waits for
// the person, who is told by prompt, until the code expires or ctx ends. It gives when the login expires.
func Login(ctx context.Context, profile string, prompt func(LoginPrompt)) (time.Time, error) {
	l, err := newLogin(ctx, profile)
	if err != nil {
		return time.Time{}, err
	}
	if err := l.register(ctx); err != nil {
		return time.Time{}, fmt.Errorf("registering with IAM Identity Center: %w", err)
	}
	token, err := l.authorize(ctx, prompt)
	if err != nil {
		return time.Time{}, fmt.Errorf("logging in to %s: %w", l.StartURL, err)
	}
	l.AccessToken, l.RefreshToken = aws.ToString(token.AccessToken), aws.ToString(token.RefreshToken)
	l.ExpiresAt = time.Now().Add(time.Duration(token.ExpiresIn) * time.Second).UTC().Truncate(time.Second)
	return l.ExpiresAt, l.store()
}

// login is one login; its fields with names are the file that AWS's tools share.
type login struct {
	StartURL              string    `json:"startUrl"`
	Region                string    `json:"region"`
	AccessToken           string    `json:"accessToken"`
	ExpiresAt             time.Time `json:"expiresAt"`
	ClientID              string    `json:"clientId"`
	ClientSecret          string    `json:"clientSecret"`
	RegistrationExpiresAt time.Time `json:"registrationExpiresAt"`
	RefreshToken          string    `json:"refreshToken,omitempty"`

	client *ssooidc.Client
	file   string
}

// newLogin reads the profile. The token of an sso_session is filed under its name, that of an older profile under its URL.
func newLogin(ctx context.Context, profile string) (*login, error) {
	if profile == "" {
		profile = os.Getenv("AWS_PROFILE")
	}
	if profile == "" {
		profile = config.DefaultSharedConfigProfile
	}
	shared, err := config.LoadSharedConfigProfile(ctx, profile, func(o *config.LoadSharedConfigOptions) {
		if file := os.Getenv("AWS_CONFIG_FILE"); file != "" {
			o.ConfigFiles = []string{file}
		}
		if file := os.Getenv("AWS_SHARED_CREDENTIALS_FILE"); file != "" {
			o.CredentialsFiles = []string{file}
		}
	})
	if err != nil {
		return nil, aboutProfile(err)
	}
	l := &login{StartURL: shared.SSOStartURL, Region: shared.SSORegion}
	key := l.StartURL
	if session := shared.SSOSession; session != nil {
		l.StartURL, l.Region, key = session.SSOStartURL, session.SSORegion, session.Name
	}
	if l.StartURL == "" || l.Region == "" {
		return nil, fmt.Errorf("profile %s: %w", profile, ErrNoSSO)
	}
	if l.file, err = ssocreds.StandardCachedTokenFilepath(key); err != nil {
		return nil, err
	}
	base, err := config.LoadDefaultConfig(ctx, config.WithRegion(l.Region), config.WithCredentialsProvider(aws.AnonymousCredentials{}))
	if err != nil {
		return nil, fmt.Errorf("loading AWS configuration: %w", err)
	}
	l.client = ssooidc.NewFromConfig(base)
	return l, nil
}

func (l *login) register(ctx context.Context) error {
	out, err := l.client.RegisterClient(ctx, &ssooidc.RegisterClientInput{
		ClientName: aws.String(loginClient), ClientType: aws.String("public"), Scopes: []string{loginScope}, GrantTypes: []string{deviceGrant, refreshGrant},
	})
	if err != nil {
		return err
	}
	l.ClientID, l.ClientSecret = aws.ToString(out.ClientId), aws.ToString(out.ClientSecret)
	l.RegistrationExpiresAt = time.Unix(out.ClientSecretExpiresAt, 0).UTC()
	return nil
}

// authorize asks for a code and then for the token, as often as the service wants to be asked, until the person has agreed.
func (l *login) authorize(ctx context.Context, prompt func(LoginPrompt)) (*ssooidc.CreateTokenOutput, error) {
	device, err := l.client.StartDeviceAuthorization(ctx, &ssooidc.StartDeviceAuthorizationInput{
		ClientId: aws.String(l.ClientID), ClientSecret: aws.String(l.ClientSecret), StartUrl: aws.String(l.StartURL),
	})
	if err != nil {
		return nil, err
	}
	prompt(LoginPrompt{URL: aws.ToString(device.VerificationUriComplete), Code: aws.ToString(device.UserCode)})
	ctx, cancel := context.WithTimeout(ctx, time.Duration(device.ExpiresIn)*time.Second)
	defer cancel()
	interval := time.Duration(device.Interval) * time.Second
	if interval <= 0 {
		interval = defaultInterval
	}
	for {
		token, err := l.client.CreateToken(ctx, &ssooidc.CreateTokenInput{
			ClientId: aws.String(l.ClientID), ClientSecret: aws.String(l.ClientSecret), GrantType: aws.String(deviceGrant), DeviceCode: device.DeviceCode,
		})
		switch {
		case err == nil:
			return token, nil
		case hasCode(err, "SlowDownException"):
			interval += defaultInterval
		case hasCode(err, "ExpiredTokenException"), errors.Is(err, context.DeadlineExceeded):
			return nil, errors.New("the code has expired before anybody confirmed it")
		case !hasCode(err, "AuthorizationPendingException"):
			return nil, err
		}
		if !sleep(ctx, interval) {
			return nil, fmt.Errorf("nobody confirmed the code: %w", ctx.Err())
		}
	}
}

// store writes the file in one step, for its owner only.
func (l *login) store() error {
	text, err := json.Marshal(l) //nolint:gosec // the file is the token's place, for its owner only, as AWS's own tools keep it
	if err != nil {
		return err
	}
	dir := filepath.Dir(l.file)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	scratch, err := os.CreateTemp(dir, "login-") // mode 0600
	if err != nil {
		return err
	}
	defer func() { _ = os.Remove(scratch.Name()) }()
	_, err = scratch.Write(text)
	if err := errors.Join(err, scratch.Close()); err != nil {
		return err
	}
	return os.Rename(scratch.Name(), l.file)
}
