package awscloud

import (
	"context"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// bucketKey is the scope AWS throttles in: account, region and API.
type bucketKey struct{ account, region, action string }

// buckets keep us below AWS's rates, so that a reconnect storm queues here, visibly, instead of failing there.
type buckets struct {
	rates   map[string]Rate
	longest time.Duration
	cache   *lru.Cache[bucketKey, *queue]
}

func newBuckets(cfg Config) *buckets {
	cache, err := lru.New[bucketKey, *queue](2 * maxPlaces)
	if err != nil {
		panic(err) // only for a size below one
	}
	return &buckets{
		rates:   map[string]Rate{actionStartSession: cfg.StartRate, actionPushKey: cfg.PushRate},
		longest: cfg.MaxQueue, cache: cache,
	}
}

func (b *buckets) queue(key bucketKey) *queue {
	fresh := newQueue(b.rates[key.action], b.longest)
	if existing, found, _ := b.cache.PeekOrAdd(key, fresh); found {
		return existing
	}
	return fresh
}

// take waits for a turn, tells how long it will be, and refuses at once when that is longer than ctx or the limit allows.
func (c *Cloud) take(ctx context.Context, info callInfo) error {
	refusal := &authz.Refusal{Reason: authz.ReasonThrottled, Action: info.action, Role: info.role, Detail: "the gateway's own queue is full"}
	line := c.buckets.queue(bucketKey{info.account, info.region, info.action})
	w, place, delay, ok := line.join(info.person, func(delay time.Duration) bool { return outlasts(ctx, delay) })
	switch {
	case !ok:
		return refusal
	case w == nil:
		return nil
	}
	c.cfg.OnWait(ctx, Wait{Action: info.action, Account: info.account, Region: info.region, Delay: delay, Place: place})
	select {
	case <-w.served:
	case <-ctx.Done():
		if line.leave(w) {
			refusal.Reason, refusal.Detail, refusal.Cause = authz.ReasonTimeout, "", context.Cause(ctx)
			return refusal
		}
		<-w.served // the turn came just then, or the place was lost
	}
	if w.refused {
		return refusal
	}
	return nil
}
