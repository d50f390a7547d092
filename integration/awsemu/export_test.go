package awsemu

import (
	"context"
	"log/slog"
	"time"
)

// SessionEnd starts a session of a document, without network; the channel closes when the service ends it, touch is traffic.
// The session is given up with ctx.
func SessionEnd(ctx context.Context, document string) (ended <-chan struct{}, touch func()) {
	s := &Server{
		cfg: Config{Now: time.Now, AgentWait: time.Hour, Delay: -1}, log: slog.New(slog.DiscardHandler),
		sessions: map[string]*session{}, agents: map[string]*agentLink{}, changed: make(chan struct{}),
	}
	s.faults.init(Faults{})
	d := mustDocument("Test", document)
	ses := s.newSession(&call{who: &principal{name: "test"}}, target{id: "i-0123456789abcdef0"}, &d, nil, "")
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.await(ctx, ses.isOver)
		ses.abandon()
		s.wg.Wait()
	}()
	return done, ses.touch
}

// Verdict asks an identity policy.
func Verdict(p Policy, action, resource string, context map[string][]string) string {
	return map[verdict]string{silent: "silent", allowed: "allow", denied: "deny"}[p.evaluate(question{action, resource, context})]
}
