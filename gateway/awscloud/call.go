package awscloud

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"net/http"
	"time"

	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// Pauses between attempts: full jitter under a doubling bound, so that replicas that were throttled together do not come back together.
const (
	firstPause        = 250 * time.Millisecond
	longestPause      = 5 * time.Second
	transientAttempts = 3 // for faults other than throttling: the person is waiting
)

// retrySafety says whether a call may be made again when nobody knows if it was carried out.
type retrySafety int

const (
	retrySafe   retrySafety = iota // describing, assuming, pushing the same key, terminating
	retryUnsent                    // StartSession: a lost answer is a session that nobody will end
)

// callInfo is what retrying, telling and refusing need to know about a call.
type callInfo struct {
	action, account, region, role string
	person                        string // for whom; empty: the gateway itself
	safety                        retrySafety
	invalidate                    func() // drops the credentials that AWS called expired; nil: they cannot be renewed
}

// invoke makes one AWS call with our retries: the SDK's own are off, because they sleep into the caller's deadline and then report the deadline,
// where the person should hear that AWS throttles.
func invoke[Out any](ctx context.Context, c *Cloud, info callInfo, do func(context.Context) (*Out, error)) (*Out, error) {
	started, attempts, renewed := time.Now(), 0, false
	finish := func(reason authz.Reason) {
		took := time.Since(started)
		c.cfg.Logger.DebugContext(ctx, "AWS call", "action", info.action, "account", info.account, "region", info.region, "role", info.role,
			"reason", reason, "attempts", attempts, "took", took)
		c.cfg.OnCall(Call{Action: info.action, Account: info.account, Region: info.region, Reason: reason, Attempts: attempts, Took: took})
	}
	for {
		attempts++
		out, err := attempt(ctx, c.cfg.CallTimeout, do)
		if err == nil {
			finish("")
			return out, nil
		}
		refusal := translate(err, info.action, info.role)
		pause, again := info.pause(refusal, attempts, c.cfg.MaxAttempts)
		if refusal.Reason == authz.ReasonCredentials && refusal.Action == info.action && info.invalidate != nil && !renewed {
			info.invalidate()
			renewed, pause, again = true, 0, true
		}
		if !again || !outlasts(ctx, pause) {
			finish(refusal.Reason)
			return nil, refusal
		}
		if refusal.Reason == authz.ReasonThrottled {
			c.cfg.OnWait(ctx, Wait{Action: info.action, Account: info.account, Region: info.region, Delay: pause, Throttled: true})
		}
		if !sleep(ctx, pause) {
			finish(refusal.Reason)
			return nil, refusal
		}
	}
}

func attempt[Out any](ctx context.Context, limit time.Duration, do func(context.Context) (*Out, error)) (*Out, error) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return do(ctx)
}

// pause decides whether a failed attempt is worth another, and after how long.
func (i callInfo) pause(refusal *authz.Refusal, attempts, most int) (time.Duration, bool) {
	bound := min(firstPause<<min(attempts-1, 10), longestPause)
	jittered := time.Duration(rand.Int64N(int64(bound))) //nolint:gosec // spreads load, keeps no secret
	switch {
	case refusal.Action != i.action: // a step inside failed, which has had its own attempts
		return 0, false
	case refusal.Reason == authz.ReasonThrottled:
		return jittered, attempts < most
	case attempts >= min(most, transientAttempts):
		return 0, false
	case i.safety == retrySafe:
		return jittered, isTransient(refusal)
	default:
		return jittered, neverSent(refusal)
	}
}

// isTransient reports a fault of the server or of the way to it.
func isTransient(refusal *authz.Refusal) bool {
	var response *smithyhttp.ResponseError
	if errors.As(refusal.Cause, &response) && response.HTTPStatusCode() >= http.StatusInternalServerError {
		return true
	}
	return refusal.Reason == authz.ReasonTimeout || isNetwork(refusal.Cause)
}

// neverSent reports that no connection came about, so that the call cannot have been carried out.
func neverSent(refusal *authz.Refusal) bool {
	var network *net.OpError
	return errors.As(refusal.Cause, &network) && network.Op == "dial"
}

// outlasts reports whether ctx lives on after d.
func outlasts(ctx context.Context, d time.Duration) bool {
	deadline, limited := ctx.Deadline()
	return ctx.Err() == nil && (!limited || time.Until(deadline) > d)
}

// sleep waits for d, or returns false when ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}
