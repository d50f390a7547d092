package awscloud

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

const startSessionAnswer = `{"SessionId":"alice-0123456789abcdef0","StreamUrl":"wss://ssmmessages.eu-west-1.amazonaws.com/v1/data-channel/alice-0123456789abcdef0?role=publish_subscribe","TokenValue":"SECRET-TOKEN"}`

// TestThrottledAndBack: throttling is waited out, and told to whoever asked.
func TestThrottledAndBack(t *testing.T) {
	fake := newFakeAWS(t)
	fake.answer("StartSession", http.StatusBadRequest, jsonError("ThrottlingException"))
	fake.answer("StartSession", http.StatusOK, startSessionAnswer)
	var mu sync.Mutex
	var waits []Wait
	var calls []Call
	type askerKey struct{}
	c := cloudAt(t, fake.URL, Config{
		OnWait: func(ctx context.Context, w Wait) {
			mu.Lock()
			defer mu.Unlock()
			if ctx.Value(askerKey{}) == "alice" {
				waits = append(waits, w)
			}
		},
		OnCall: func(call Call) {
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, call)
		},
	})
	if _, err := c.StartPort(context.WithValue(t.Context(), askerKey{}, "alice"), authz.Role{}, testInstance, 22, ""); err != nil {
		t.Fatal(err)
	}
	if len(waits) != 1 || !waits[0].Throttled || waits[0].Action != actionStartSession || waits[0].Region != "eu-west-1" {
		t.Errorf("told of %+v, want one wait for throttling", waits)
	}
	if len(calls) != 1 || calls[0].Attempts != 2 || calls[0].Reason != "" {
		t.Errorf("counted %+v, want one call of two attempts", calls)
	}
}

// TestNeverStartedTwice: an answer of StartSession that is lost or broken may have opened a session, so it is not asked again; a key may be pushed again.
func TestNeverStartedTwice(t *testing.T) {
	fake := newFakeAWS(t)
	fake.answer("StartSession", http.StatusInternalServerError, jsonError("InternalServerError"))
	fake.answer("SendSSHPublicKey", http.StatusInternalServerError, jsonError("ServiceException"))
	fake.answer("SendSSHPublicKey", http.StatusOK, `{"RequestId":"r","Success":true}`)
	c := cloudAt(t, fake.URL, Config{})
	_, err := c.StartPort(t.Context(), authz.Role{}, testInstance, 22, "")
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonCloud, Action: actionStartSession, Subject: testInstance.ID})
	if n := len(fake.bodies("StartSession")); n != 1 {
		t.Errorf("StartSession was sent %d times", n)
	}
	if err := c.PushKey(t.Context(), authz.Role{}, testInstance, "ec2-user", testKey(t)); err != nil {
		t.Errorf("pushing after a fault of the server: %v", err)
	}
}

// TestThrottledBeyondPatience: when the next pause would outlast the caller, the person hears of throttling and not of a deadline.
func TestThrottledBeyondPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Cloud{cfg: Config{}.withDefaults()}
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		throttled := &authz.Refusal{Reason: authz.ReasonThrottled, Action: "a:B"}
		attempts := 0
		_, err := invoke(ctx, c, callInfo{action: "a:B"}, func(context.Context) (*int, error) { attempts++; return nil, throttled })
		wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonThrottled, Action: "a:B"})
		if attempts < 2 || attempts > c.cfg.MaxAttempts || ctx.Err() != nil {
			t.Errorf("%d attempts, context %v", attempts, ctx.Err())
		}
	})
}

func TestPause(t *testing.T) {
	refused := func(reason authz.Reason, cause error) *authz.Refusal {
		return &authz.Refusal{Reason: reason, Action: "a:B", Cause: cause}
	}
	dial, read := &net.OpError{Op: "dial", Err: errors.New("refused")}, &net.OpError{Op: "read", Err: errors.New("reset")}
	for _, test := range []struct {
		name     string
		safety   retrySafety
		refusal  *authz.Refusal
		attempts int
		again    bool
	}{
		{"throttled", retryUnsent, refused(authz.ReasonThrottled, nil), 1, true},
		{"throttled to the last", retrySafe, refused(authz.ReasonThrottled, nil), 6, false},
		{"denied", retrySafe, refused(authz.ReasonAccessDenied, nil), 1, false},
		{"lost while describing", retrySafe, refused(authz.ReasonCloud, read), 1, true},
		{"lost while starting", retryUnsent, refused(authz.ReasonCloud, read), 1, false},
		{"late while starting", retryUnsent, refused(authz.ReasonTimeout, context.DeadlineExceeded), 1, false},
		{"never sent", retryUnsent, refused(authz.ReasonCloud, dial), 1, true},
		{"never sent, again and again", retryUnsent, refused(authz.ReasonCloud, dial), 3, false},
		{"a step inside", retrySafe, &authz.Refusal{Reason: authz.ReasonThrottled, Action: "sts:AssumeRole"}, 1, false},
	} {
		pause, again := callInfo{action: "a:B", safety: test.safety}.pause(test.refusal, test.attempts, 6)
		if again != test.again {
			t.Errorf("%s: again is %t", test.name, again)
		}
		if pause < 0 || pause >= longestPause {
			t.Errorf("%s: a pause of %s", test.name, pause)
		}
	}
}

// TestQueue: beyond the burst callers wait their turn, in order and visibly; who would wait too long is refused at once and gives the turn back.
func TestQueue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []Wait
		cfg := Config{StartRate: Rate{PerSecond: 2, Burst: 1}, MaxQueue: time.Second, OnWait: func(_ context.Context, w Wait) { told = append(told, w) }}.withDefaults()
		c := &Cloud{cfg: cfg, buckets: newBuckets(cfg)}
		info := callInfo{action: actionStartSession, account: "1", region: "r"}
		started := time.Now()
		for range 3 {
			if err := c.take(t.Context(), info); err != nil {
				t.Fatal(err)
			}
		}
		if waited := time.Since(started); waited != time.Second {
			t.Errorf("three turns at 2 per second with burst 1 took %s", waited)
		}
		want := []Wait{{Action: actionStartSession, Account: "1", Region: "r", Delay: 500 * time.Millisecond, Place: 1}}
		if diff := cmp.Diff(append(want, want...), told); diff != "" {
			t.Error(diff)
		}
		if err := c.take(t.Context(), callInfo{action: actionStartSession, account: "2", region: "r"}); err != nil || time.Since(started) != time.Second {
			t.Errorf("another account waits behind this one: %v", err)
		}

		ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
		defer cancel()
		for range 5 { // each refusal gives its turn back, else the last ones would be refused for the length of the queue
			wantRefusal(t, c.take(ctx, info), authz.Refusal{Reason: authz.ReasonThrottled, Action: actionStartSession, Detail: "the gateway's own queue is full"})
		}
		if err := c.take(t.Context(), info); err != nil {
			t.Errorf("after refusals: %v", err)
		}
	})
}

// TestThrottledEverywhere: each service says it in its own way, and one way from a name to a pushed key survives all of them.
func TestThrottledEverywhere(t *testing.T) {
	server := world(t)
	actions := map[string]int{"ec2:DescribeInstances": 1, "sts:AssumeRole": 1, "ec2-instance-connect:SendSSHPublicKey": 1}
	if err := server.SetFaults(awsemu.Scope{}, awsemu.Faults{Throttle: actions}); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	throttled := map[string]int{}
	c := cloudIn(t, server, Config{OnWait: func(_ context.Context, w Wait) {
		mu.Lock()
		defer mu.Unlock()
		throttled[w.Action]++
	}})
	web := mustResolve(t, c, webID+".eu-west-1.prod")
	alice := person(prodRole, "alice", nil)
	if err := c.PushKey(t.Context(), alice, web, "ec2-user", testKey(t)); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(actions, throttled); diff != "" {
		t.Errorf("waits: %s", diff)
	}
	if err := server.SetFaults(awsemu.Scope{}, awsemu.Faults{Throttle: map[string]int{"sts:AssumeRole": 100}}); err != nil {
		t.Fatal(err)
	}
	hasty := cloudIn(t, server, Config{MaxAttempts: 2})
	err := hasty.PushKey(t.Context(), alice, web, "ec2-user", testKey(t))
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonThrottled, Subject: webID, Action: "sts:AssumeRole", Role: prodRole})
}

// TestSlow: a call that does not answer is given up, and refused as late.
func TestSlow(t *testing.T) {
	var asked atomic.Int32
	silent := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		_, _ = io.Copy(io.Discard, r.Body) // only then does the server notice that the client has gone
		<-r.Context().Done()
	}))
	defer silent.Close()
	c := cloudAt(t, silent.URL, Config{CallTimeout: 100 * time.Millisecond})
	_, err := c.StartPort(t.Context(), authz.Role{}, testInstance, 22, "")
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonTimeout, Subject: testInstance.ID, Action: actionStartSession})
	if n := asked.Load(); n > 1 {
		t.Errorf("StartSession was sent %d times, though nobody knows what became of the first", n)
	}
}
