package awscloud

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2instanceconnect"
	"github.com/aws/aws-sdk-go-v2/service/kms"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	ststypes "github.com/aws/aws-sdk-go-v2/service/sts/types"
	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const (
	// sessionsHeld bounds the clients held at once; the longest unused go first, at the price of an AssumeRole when they come back.
	sessionsHeld = 4096
	// refreshBefore is how long before their expiry credentials are renewed.
	refreshBefore = 5 * time.Minute
)

// clients speak to the services of one region with one set of credentials: a person's role session, or the gateway's own.
type clients struct {
	ec2     *ec2.Client
	ssm     *ssm.Client
	connect *ec2instanceconnect.Client
	kms     *kms.Client
	sts     *sts.Client

	credentials aws.CredentialsProvider
	invalidate  func()
	account     string
	region      string
	role        string // ARN; empty for own credentials
	person      string // whose role session; empty for own credentials
}

func (c *clients) call(action string, safety retrySafety) callInfo {
	return callInfo{action: action, account: c.account, region: c.region, role: c.role, person: c.person, safety: safety, invalidate: c.invalidate}
}

// sessionKey is everything that a role session depends on: whoever differs in anything has another session. The digest covers all of it,
// the person stands beside it so that the sessions of one person can be found.
type sessionKey struct {
	person string
	digest [sha256.Size]byte
}

type sessionCache struct {
	cloud *Cloud
	mu    sync.Mutex // makes get-or-create one step
	held  *lru.Cache[sessionKey, *clients]
}

func newSessionCache(c *Cloud) *sessionCache {
	held, err := lru.New[sessionKey, *clients](sessionsHeld)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &sessionCache{cloud: c, held: held}
}

// clientsFor gives the clients for a role in a region of an account, narrowed by a session policy if there is one. It calls nothing:
// the role is assumed when the first call needs credentials. The zero Role means the account's own credentials.
func (c *Cloud) clientsFor(a *account, role authz.Role, region, policy string) (*clients, error) {
	if role.ARN == "" {
		policy = "" // nothing is assumed that it could narrow
	} else if role.SessionName == "" {
		return nil, &authz.Refusal{Reason: authz.ReasonNoRole, Role: role.ARN, Detail: "a role is assumed only for a named person"}
	}
	key, err := newSessionKey(a, role, region, policy)
	if err != nil {
		return nil, err
	}
	s := c.sessions
	s.mu.Lock()
	defer s.mu.Unlock()
	if held, ok := s.held.Get(key); ok {
		return held, nil
	}
	fresh := s.build(a, role, region, policy)
	s.held.Add(key, fresh)
	return fresh, nil
}

func newSessionKey(a *account, role authz.Role, region, policy string) (sessionKey, error) {
	text, err := json.Marshal(struct {
		Account, Profile, Region, Policy string
		Role                             authz.Role
	}{a.ID, a.Profile, region, policy, role})
	if err != nil {
		return sessionKey{}, fmt.Errorf("session key of %s: %w", role.SessionName, err)
	}
	return sessionKey{person: role.SessionName, digest: sha256.Sum256(text)}, nil
}

func (s *sessionCache) forget(person string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, key := range s.held.Keys() {
		if key.person == person {
			s.held.Remove(key)
		}
	}
}

func (s *sessionCache) build(a *account, role authz.Role, region, policy string) *clients {
	cfg := a.base.Copy()
	cfg.Region = region
	built := &clients{account: a.ID, region: region, role: role.ARN, person: role.SessionName}
	if role.ARN == "" {
		if own, ok := cfg.Credentials.(ownCredentials); ok {
			built.invalidate = own.Invalidate
		}
	} else {
		cache := aws.NewCredentialsCache(s.assumer(a, role, region, policy), func(o *aws.CredentialsCacheOptions) { o.ExpiryWindow = refreshBefore })
		cfg.Credentials, built.invalidate = cache, cache.Invalidate
	}
	built.credentials = cfg.Credentials
	built.ec2, built.ssm = ec2.NewFromConfig(cfg), ssm.NewFromConfig(cfg, func(o *ssm.Options) {
		if endpoint := s.cloud.cfg.SSMEndpoint; endpoint != "" {
			o.BaseEndpoint = aws.String(endpoint)
		}
	})
	built.connect, built.kms, built.sts = ec2instanceconnect.NewFromConfig(cfg), kms.NewFromConfig(cfg), sts.NewFromConfig(cfg)
	return built
}

// assumer assumes role for its person. STS is asked in the account's home region, because tokens of a regional STS are good everywhere in its partition.
func (s *sessionCache) assumer(a *account, role authz.Role, region, policy string) aws.CredentialsProvider {
	cfg := a.base.Copy()
	cfg.Region = a.home
	if partitionOf(region) != partitionOf(a.home) {
		cfg.Region = region
	}
	client := &assumeCall{cloud: s.cloud, client: sts.NewFromConfig(cfg), info: callInfo{
		action: "sts:AssumeRole", account: a.ID, region: cfg.Region, role: role.ARN,
	}}
	if own, ok := cfg.Credentials.(ownCredentials); ok {
		client.info.invalidate = own.Invalidate
	}
	return stscreds.NewAssumeRoleProvider(client, role.ARN, func(o *stscreds.AssumeRoleOptions) {
		o.RoleSessionName = role.SessionName
		o.Duration = s.cloud.cfg.SessionDuration
		o.SourceIdentity = optional(role.SourceIdentity)
		o.ExternalID = optional(role.ExternalID)
		if role.ExternalID == "" {
			o.ExternalID = optional(a.ExternalID)
		}
		o.Policy = optional(policy)
		for _, name := range slices.Sorted(maps.Keys(role.Tags)) {
			o.Tags = append(o.Tags, ststypes.Tag{Key: aws.String(name), Value: aws.String(role.Tags[name])})
		}
	})
}

// assumeCall gives AssumeRole our retries, limits and errors. It runs in a goroutine of the SDK's credential cache, which ignores the asker's deadline:
// others may be waiting for the same credentials.
type assumeCall struct {
	cloud  *Cloud
	client *sts.Client
	info   callInfo
}

// AssumeRole makes assumeCall a stscreds.AssumeRoleAPIClient.
func (a *assumeCall) AssumeRole(ctx context.Context, in *sts.AssumeRoleInput, options ...func(*sts.Options)) (*sts.AssumeRoleOutput, error) {
	ctx, end, ok := a.cloud.begin(ctx, a.cloud.cfg.ResolveTimeout)
	if !ok {
		return nil, &authz.Refusal{Reason: authz.ReasonShuttingDown, Action: a.info.action, Role: a.info.role}
	}
	defer end()
	return invoke(ctx, a.cloud, a.info, func(ctx context.Context) (*sts.AssumeRoleOutput, error) {
		return a.client.AssumeRole(ctx, in, options...)
	})
}

func optional(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}
