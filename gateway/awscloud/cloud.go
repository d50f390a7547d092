// Package awscloud answers the gateway's questions to AWS: which machine a name means, a key let in for a minute, a Session Manager session to a port.
//
// It is the only place that knows the AWS SDK. Two kinds of credentials are used and never mixed: the gateway's own (or an account's inventory role)
// for Describe calls, and one role session per person for everything that reaches a machine. Every answer that is no is an *authz.Refusal.
//
// The gateway's own credentials need sts:AssumeRole, sts:TagSession and sts:SetSourceIdentity on people's roles (and on inventory roles, without the last
// two). Whoever does the describing, they or the inventory role, needs ec2:DescribeInstances and, where there are hybrid nodes,
// ssm:DescribeInstanceInformation and ssm:ListTagsForResource.
package awscloud

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"golang.org/x/sync/singleflight"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// Cloud is AWS as the gateway sees it. It is safe for concurrent use. Make it with New.
type Cloud struct {
	cfg      Config
	log      *slog.Logger
	accounts []*account // at least one
	aliases  map[string]string

	sessions *sessionCache
	buckets  *buckets

	lasting *memory[answer] // running machines
	brief   *memory[answer] // everything that may soon be different: no such name, several, not running
	listing *memory[[]*authz.Instance]
	flight  singleflight.Group

	ctx    context.Context // ends at Close; work that outlives its asker is bound to it
	cancel context.CancelFunc
	mu     sync.Mutex
	closed bool
	work   sync.WaitGroup
	starts sync.WaitGroup // of work, what opens sessions
}

// New reads profiles, environment and (for a missing region) instance metadata, and checks the configuration. It calls no AWS service.
func New(ctx context.Context, cfg Config) (*Cloud, error) {
	cfg = cfg.withDefaults()
	aliases, err := cfg.check()
	if err != nil {
		return nil, fmt.Errorf("AWS configuration: %w", err)
	}
	accounts, err := loadAccounts(ctx, cfg)
	if err != nil {
		return nil, err
	}
	c := &Cloud{
		cfg: cfg, log: cfg.Logger, accounts: accounts, aliases: aliases,
		buckets: newBuckets(cfg),
		lasting: newMemory[answer](resolveCacheSize, cfg.PositiveTTL),
		brief:   newMemory[answer](resolveCacheSize, cfg.NegativeTTL),
		listing: newMemory[[]*authz.Instance](1, cfg.PositiveTTL),
	}
	c.sessions = newSessionCache(c)
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c, nil
}

// Close waits a few seconds for sessions that AWS is just opening, to end those that nobody waits for; ends look-ups that are still under way, waits for them, and
// gives idle connections back. Live sessions of machines are not touched.
func (c *Cloud) Close() error {
	c.mu.Lock()
	c.closed = true
	c.mu.Unlock()
	impatient := time.AfterFunc(closePatience, c.cancel)
	c.starts.Wait()
	impatient.Stop()
	c.cancel()
	c.work.Wait()
	for _, a := range c.accounts {
		a.closeIdle()
	}
	return nil
}

// begin registers work that may outlive the call that caused it, bound to limit and to Close instead. The returned end must be called.
func (c *Cloud) begin(ctx context.Context, limit time.Duration) (_ context.Context, end func(), ok bool) {
	return c.bound(context.WithoutCancel(ctx), limit)
}

// bound registers work of a caller who waits for it, bound to limit and to Close. The returned end must be called.
func (c *Cloud) bound(ctx context.Context, limit time.Duration) (_ context.Context, end func(), ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, nil, false
	}
	c.work.Add(1)
	ctx, cancel := context.WithTimeout(ctx, limit)
	stop := context.AfterFunc(c.ctx, cancel)
	return ctx, func() { stop(); cancel(); c.work.Done() }, true
}

// beginStart is begin for a call that opens a session. Its limit is twice that of a call, the second time without its caller.
func (c *Cloud) beginStart(ctx context.Context) (_ context.Context, end func(), ok bool) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, nil, false
	}
	c.starts.Add(1)
	c.mu.Unlock()
	ctx, done, ok := c.begin(ctx, 2*c.cfg.CallTimeout)
	if !ok {
		c.starts.Done()
		return nil, nil, false
	}
	return ctx, func() { done(); c.starts.Done() }, true
}

// String hides the configuration.
func (c *Cloud) String() string { return fmt.Sprintf("awscloud.Cloud{%d accounts}", len(c.accounts)) }

// GoString hides it from %#v.
func (c *Cloud) GoString() string { return c.String() }

// LogValue hides it from slog.
func (c *Cloud) LogValue() slog.Value { return slog.StringValue(c.String()) }

// Forget drops every credential held for person, so that the next call must assume the role anew. Call it when access is revoked.
// A grant already given can still terminate its session; resuming one needs new credentials.
func (c *Cloud) Forget(person string) { c.sessions.forget(person) }

// Caller is the AWS identity of the gateway itself, or of the person at the laptop.
type Caller struct {
	Account string // twelve digits
	ARN     string
	UserID  string
}

// CallerIdentity asks STS who the ambient credentials of the first account are.
func (c *Cloud) CallerIdentity(ctx context.Context) (Caller, error) {
	return c.callerIdentity(ctx, c.accounts[0])
}

func (c *Cloud) callerIdentity(ctx context.Context, a *account) (Caller, error) {
	client, err := c.clientsFor(a, authz.Role{}, a.home, "")
	if err != nil {
		return Caller{}, err
	}
	out, err := invoke(ctx, c, client.call("sts:GetCallerIdentity", retrySafe), func(ctx context.Context) (*sts.GetCallerIdentityOutput, error) {
		return client.sts.GetCallerIdentity(ctx, &sts.GetCallerIdentityInput{})
	})
	if err != nil {
		return Caller{}, err
	}
	return Caller{Account: aws.ToString(out.Account), ARN: aws.ToString(out.Arn), UserID: aws.ToString(out.UserId)}, nil
}
