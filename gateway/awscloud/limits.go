package awscloud

import (
	"context"
	"math"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/time/rate"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// bucketKey is the scope AWS throttles in: account, region and API.
type bucketKey struct{ account, region, action string }

// buckets keep us below AWS's rates, so that a reconnect storm queues here, visibly, instead of failing there.
type buckets struct {
	rates   map[string]Rate
	longest time.Duration
	cache   *lru.Cache[bucketKey, *rate.Limiter]
}

func newBuckets(cfg Config) *buckets {
	cache, err := lru.New[bucketKey, *rate.Limiter](2 * maxPlaces)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &buckets{
		rates:   map[string]Rate{actionStartSession: cfg.StartRate, actionPushKey: cfg.PushRate},
		longest: cfg.MaxQueue, cache: cache,
	}
}

func (b *buckets) limiter(key bucketKey) *rate.Limiter {
	fresh := rate.NewLimiter(rate.Limit(b.rates[key.action].PerSecond), b.rates[key.action].Burst)
	if existing, found, _ := b.cache.PeekOrAdd(key, fresh); found {
		return existing
	}
	return fresh
}

// take waits for a turn, tells how long it will be, and refuses at once when that is longer than ctx or the limit allows.
func (c *Cloud) take(ctx context.Context, info callInfo) error {
	limiter := c.buckets.limiter(bucketKey{info.account, info.region, info.action})
	turn := limiter.Reserve()
	delay := turn.Delay()
	if delay == 0 {
		return nil
	}
	refusal := &authz.Refusal{Reason: authz.ReasonThrottled, Action: info.action, Role: info.role, Detail: "the gateway's own queue is full"}
	if delay > c.buckets.longest || !outlasts(ctx, delay) {
		turn.Cancel()
		return refusal
	}
	place := int(math.Ceil(delay.Seconds() * float64(limiter.Limit())))
	c.cfg.OnWait(ctx, Wait{Action: info.action, Account: info.account, Region: info.region, Delay: delay, Place: place})
	if !sleep(ctx, delay) {
		turn.Cancel()
		refusal.Reason, refusal.Detail, refusal.Cause = authz.ReasonTimeout, "", context.Cause(ctx)
		return refusal
	}
	return nil
}
