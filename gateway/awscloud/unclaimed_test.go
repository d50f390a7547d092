package awscloud

import (
	"context"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// TestUnclaimedSessionIsEnded has askers leave when AWS has opened their session and not answered yet: by themselves, and because they were told to wait no longer.
func TestUnclaimedSessionIsEnded(t *testing.T) {
	// The answer comes when the asker has left and before the call is given up, after twice its limit.
	for name, cfg := range map[string]Config{"gone": {}, "tired": {CallTimeout: 2 * time.Second}} {
		t.Run(name, func(t *testing.T) {
			server := worldOf(t, awsemu.Config{Faults: awsemu.Faults{AnswerLatency: awsemu.Duration(3 * time.Second)}})
			attach(t, server, webID, "eu-west-1")
			c := cloudIn(t, server, cfg)
			on := mustResolve(t, c, webID)
			ctx, leave := context.WithCancel(t.Context())
			defer leave()
			if name == "gone" {
				go func() { awaitSession(ctx, server); leave() }()
			}
			_, err := c.StartPort(ctx, person(prodRole, "alice", nil), on, 22, "")
			wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonTimeout, Subject: webID, Action: actionStartSession, Role: prodRole})
			_ = c.Close() // waits for it
			if all := server.Sessions(); len(all) != 1 || !all[0].Over() {
				t.Errorf("sessions are left: %+v", all)
			}
		})
	}
}

// awaitSession waits until the emulator has opened one.
func awaitSession(ctx context.Context, server *awsemu.Server) {
	for len(server.Sessions()) == 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
	}
}

// TestNothingAskedNothingAwaited: who leaves before the question is sent, here because there are no credentials yet, is not kept.
func TestNothingAskedNothingAwaited(t *testing.T) {
	fake := newFakeAWS(t)
	var waiting atomic.Bool
	asked := make(chan struct{})
	load := func(context.Context, string) (aws.Config, error) {
		return aws.Config{Region: "eu-west-1", BaseEndpoint: aws.String(fake.URL), Credentials: aws.CredentialsProviderFunc(
			func(ctx context.Context) (aws.Credentials, error) {
				if waiting.CompareAndSwap(false, true) {
					close(asked)
				}
				<-ctx.Done()
				return aws.Credentials{}, ctx.Err()
			})}, nil
	}
	c := cloudAt(t, fake.URL, Config{LoadConfig: load, CallTimeout: time.Hour})
	ctx, leave := context.WithCancel(t.Context())
	go func() { <-asked; leave() }()
	_, err := c.StartPort(ctx, authz.Role{}, testInstance, 22, "")
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonTimeout, Subject: testInstance.ID, Action: actionStartSession})
	_ = c.Close()
	if c.ctx.Err() == nil || len(fake.bodies("StartSession")) != 0 {
		t.Error("a question was sent")
	}
	_, err = c.StartPort(t.Context(), authz.Role{}, testInstance, 22, "")
	wantRefusal(t, err, authz.Refusal{Reason: authz.ReasonShuttingDown, Subject: testInstance.ID})
}
