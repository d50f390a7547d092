package awscloud

import (
	"context"
	"net/http/httptrace"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/aws/smithy-go/middleware"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// closePatience is how long Close waits for answers of StartSession.
const closePatience = 5 * time.Second

// started is an answer of StartSession.
type started struct {
	out *ssm.StartSessionOutput
	err error
}

// open calls StartSession so that it leaves nothing behind: AWS opens a session before it answers, so whoever leaves meanwhile, or waits no longer, would leave
// one that nobody knows and nobody ends. The call itself goes on for CallTimeout more, and ends what it gets.
func (s *heldSession) open(ctx context.Context, in *ssm.StartSessionInput) (*ssm.StartSessionOutput, error) {
	call, end, ok := s.cloud.beginStart(ctx)
	if !ok {
		return nil, &authz.Refusal{Reason: authz.ReasonShuttingDown, Subject: s.on.ID}
	}
	call, cancel := context.WithCancel(call)
	var asked atomic.Bool
	answer := make(chan started)
	go func() {
		defer end()
		defer cancel()
		out, err := s.client.ssm.StartSession(call, in, onceConnected(func() { asked.Store(true) }))
		select {
		case answer <- started{out, err}:
		case <-ctx.Done():
			s.endUnclaimed(ctx, started{out, err})
		}
	}()
	select {
	case a := <-answer:
		return a.out, a.err
	case <-ctx.Done():
		if !asked.Load() { // no need to wait for a network that is not there, or for credentials
			cancel()
		}
		return nil, context.Cause(ctx)
	}
}

// endUnclaimed ends the session of an answer that nobody waits for.
func (s *heldSession) endUnclaimed(ctx context.Context, late started) {
	if late.err != nil {
		return
	}
	id := aws.ToString(late.out.SessionId)
	s.cloud.log.InfoContext(ctx, "ending a session that nobody waits for any more", "session", id)
	if err := s.terminate(ctx, id); err != nil {
		s.cloud.log.WarnContext(ctx, "a session that nobody waits for stays open until its idle timeout", "session", id, "error", err)
	}
}

// onceConnected tells when a call has a connection to be sent over. Before that come credentials, which may be calls of their own, and a connection.
func onceConnected(tell func()) func(*ssm.Options) {
	watch := middleware.DeserializeMiddlewareFunc("OnceConnected",
		func(ctx context.Context, in middleware.DeserializeInput, next middleware.DeserializeHandler) (middleware.DeserializeOutput, middleware.Metadata, error) {
			ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{GotConn: func(httptrace.GotConnInfo) { tell() }})
			return next.HandleDeserialize(ctx, in)
		})
	return func(o *ssm.Options) {
		o.APIOptions = append(o.APIOptions, func(stack *middleware.Stack) error { return stack.Deserialize.Add(watch, middleware.After) })
	}
}
