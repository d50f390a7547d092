package awscloud

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials/ssocreds"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	"github.com/aws/smithy-go"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// account is one Account with its source of credentials.
type account struct {
	Account
	base    aws.Config // own credentials, HTTP client and endpoints; region is set per client
	home    string     // the region STS is asked in
	ambient bool       // stands for whatever account the credentials belong to

	ownerMu sync.Mutex
	owner   string // of an ambient account, once STS has told
}

// place is where a machine can be.
type place struct {
	account *account
	region  string
}

func (a *account) closeIdle() {
	if client, ok := a.base.HTTPClient.(*http.Client); ok {
		client.CloseIdleConnections()
	}
}

// answersTo reports whether a suffix means this account.
func (a *account) answersTo(label string) bool {
	return label == a.ID || a.Alias != "" && strings.EqualFold(label, a.Alias)
}

// loadAccounts reads each profile once; accounts with the same profile share credentials and connections.
func loadAccounts(ctx context.Context, cfg Config) ([]*account, error) {
	loaded := map[string]aws.Config{}
	load := func(profile string) (aws.Config, error) {
		if base, ok := loaded[profile]; ok {
			return base, nil
		}
		base, err := loadProfile(ctx, cfg, profile)
		if err == nil {
			loaded[profile] = base
		}
		return base, err
	}
	declared := cfg.Accounts
	if len(declared) == 0 {
		declared = []Account{{Regions: cfg.Regions}}
	}
	var accounts []*account
	places := 0
	for _, d := range declared {
		a := &account{Account: d.withDefaults(), ambient: len(cfg.Accounts) == 0}
		setDefault(&a.Profile, cfg.Profile)
		base, err := load(a.Profile)
		if err != nil {
			return nil, err
		}
		if len(a.Regions) == 0 {
			a.Regions = []string{base.Region}
		}
		a.base, a.home = base, base.Region
		if a.home == "" || partitionOf(a.home) != partitionOf(a.Regions[0]) {
			a.home = a.Regions[0]
		}
		if a.home == "" {
			return nil, errors.New("no AWS region is configured: set one in the configuration, the profile or AWS_REGION")
		}
		places += len(a.Regions)
		accounts = append(accounts, a)
	}
	if places > maxPlaces {
		return nil, fmt.Errorf("%d regions over all accounts are more than the %d a name may be searched in", places, maxPlaces)
	}
	return accounts, nil
}

// loadProfile reads the SDK's default chain and takes over what we decide ourselves: retries (call.go) and one HTTP client for all people.
func loadProfile(ctx context.Context, cfg Config, profile string) (aws.Config, error) {
	base, err := loadConfig(ctx, cfg, profile)
	if err != nil {
		return aws.Config{}, fmt.Errorf("loading AWS configuration: %w", aboutProfile(err))
	}
	if cfg.Region != "" {
		base.Region = cfg.Region
	}
	if base.Region == "" {
		base.Region = metadataRegion(ctx, base)
	}
	if base.Credentials == nil {
		base.Credentials = aws.AnonymousCredentials{}
	}
	base.Credentials = ownCredentials{base.Credentials}
	base.Retryer = func() aws.Retryer { return aws.NopRetryer{} }
	// The SDK clones its client for every service client, so that connections would be per person; SigV4 signs each request, so sharing is safe.
	if buildable, ok := base.HTTPClient.(*awshttp.BuildableClient); ok || base.HTTPClient == nil {
		if buildable == nil {
			buildable = awshttp.NewBuildableClient()
		}
		base.HTTPClient = &http.Client{
			Transport:     buildable.GetTransport(),
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		}
	}
	return base, nil
}

func loadConfig(ctx context.Context, cfg Config, profile string) (aws.Config, error) {
	if cfg.LoadConfig != nil {
		return cfg.LoadConfig(ctx, profile)
	}
	options := []func(*config.LoadOptions) error{config.WithSharedConfigProfile(profile), config.WithLogger(sdkLog{cfg.Logger})}
	if cfg.Region != "" {
		options = append(options, config.WithRegion(cfg.Region))
	}
	if cfg.UseFIPS {
		options = append(options, config.WithUseFIPSEndpoint(aws.FIPSEndpointStateEnabled))
	}
	if cfg.UseDualStack {
		options = append(options, config.WithUseDualStackEndpoint(aws.DualStackEndpointStateEnabled))
	}
	if cfg.MFACode != nil {
		options = append(options, config.WithAssumeRoleCredentialOptions(func(o *stscreds.AssumeRoleOptions) { o.TokenProvider = cfg.MFACode }))
	}
	return config.LoadDefaultConfig(ctx, options...)
}

// aboutProfile says in words what the SDK says of profiles.
func aboutProfile(err error) error {
	var missing config.SharedConfigProfileNotExistError
	var role config.SharedConfigAssumeRoleError
	switch {
	case errors.As(err, &missing):
		return fmt.Errorf("there is no profile %s in the configuration of AWS's tools; aws configure list-profiles shows what there is", missing.Profile)
	case errors.As(err, &role):
		return fmt.Errorf("profile %s, from which %s is to be assumed, has no credentials: see its source_profile", role.Profile, role.RoleARN)
	}
	return err
}

// metadataRegion asks the instance that we run on, briefly: on a laptop nobody answers.
func metadataRegion(ctx context.Context, base aws.Config) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	out, err := imds.NewFromConfig(base).GetRegion(ctx, &imds.GetRegionInput{})
	if err != nil {
		return ""
	}
	return out.Region
}

// ErrLoginExpired is in the chain of a refusal for credentials when the login of an SSO profile is missing or over.
var ErrLoginExpired = errors.New("the SSO login has expired")

// ownCredentials marks a failure to find credentials, which the SDK reports as plain text only.
type ownCredentials struct{ aws.CredentialsProvider }

func (o ownCredentials) Retrieve(ctx context.Context) (aws.Credentials, error) {
	credentials, err := o.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return aws.Credentials{}, &authz.Refusal{Reason: authz.ReasonCredentials, Action: "credentials", Detail: whereLooked(err), Cause: asLogin(err)}
	}
	return credentials, nil
}

// whereLooked says where there were no credentials if that was everywhere: instance metadata come last.
func whereLooked(err error) string {
	var call *smithy.OperationError
	if errors.As(err, &call) && call.ServiceID == imds.ServiceID {
		return "none in the environment, in a profile, or from instance metadata"
	}
	return ""
}

// asLogin adds ErrLoginExpired where that is what failed: no token in the cache or one too old, or the service would not have it. For profiles with
// an sso_session the SDK has no type for the first two, only a text that names the cache, which a test holds it to.
func asLogin(err error) error {
	var token *ssocreds.InvalidTokenError
	if errors.As(err, &token) || hasCode(err, "UnauthorizedException") || strings.Contains(err.Error(), "cached SSO token") {
		return fmt.Errorf("%w: %w", ErrLoginExpired, err)
	}
	return err
}

// Invalidate makes the next Retrieve ask the source again, where the source caches.
func (o ownCredentials) Invalidate() {
	if cache, ok := o.CredentialsProvider.(*aws.CredentialsCache); ok {
		cache.Invalidate()
	}
}

// aliasOf is what people call an account, by its number; empty when it has no other name.
func (c *Cloud) aliasOf(id string) string {
	for _, a := range c.accounts {
		if a.ID == id {
			return a.Alias
		}
	}
	return ""
}

// accountOf finds the account a machine is in.
func (c *Cloud) accountOf(on *authz.Instance) (*account, error) {
	for _, a := range c.accounts {
		if a.ambient || a.ID == on.Account {
			return a, nil
		}
	}
	return nil, &authz.Refusal{Reason: authz.ReasonUnknownTarget, Subject: on.ID, Detail: "account " + on.Account + " is not configured"}
}

// partitions by the prefix of their regions; everything else is aws. (The SDK's partitions.json: regionRegex.)
var partitions = []struct{ prefix, partition string }{
	{"cn-", "aws-cn"},
	{"us-gov-", "aws-us-gov"},
	{"us-iso-", "aws-iso"},
	{"us-isob-", "aws-iso-b"},
	{"eu-isoe-", "aws-iso-e"},
	{"us-isof-", "aws-iso-f"},
	{"eusc-", "aws-eusc"},
}

// partitionOf names the partition of a region, for ARNs.
func partitionOf(region string) string {
	for _, p := range partitions {
		if strings.HasPrefix(region, p.prefix) {
			return p.partition
		}
	}
	return "aws"
}
