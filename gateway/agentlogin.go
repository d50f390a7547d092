package gateway

import (
	"context"
	"fmt"
	"io"
	"slices"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

const (
	// agentKeys is how many keys of an agent a machine is offered at most. After five others sshd takes no sixth (MaxAuthTries), and two may have gone before.
	agentKeys = 3
	// agentPatience is how long a login waits for the client to say whether it forwards an agent.
	agentPatience = 10 * time.Second
)

// agentOffer is whether the client of a stay forwards its agent. A client that does says so on its session before it asks for a program, and takes a channel to
// the agent that it has not offered for an attack; so the login waits for the word, and the session is accepted ahead of the machine's answer for it.
type agentOffer struct {
	want  func()        // asks for the word
	asked chan struct{} // closed when a login waits for it
	said  chan struct{} // closed when it has been said

	mu      sync.Mutex
	offered bool
	settled bool
	client  ssh.Conn // to open the channel on
}

func newAgentOffer() *agentOffer {
	o := &agentOffer{asked: make(chan struct{}), said: make(chan struct{})}
	o.want = sync.OnceFunc(func() { close(o.asked) })
	return o
}

// reach notes the connection to the client.
func (o *agentOffer) reach(client ssh.Conn) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.client = client
}

// hear takes the requests of the client's first session in their order, up to its program; nil says that there are no more.
func (o *agentOffer) hear(req *ssh.Request) {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.settled:
		return
	case req != nil && req.Type == "auth-agent-req@openssh.com":
		o.offered = true
	case req != nil && !isProgram(req.Type):
		return
	}
	o.settled = true
	close(o.said)
}

func isProgram(request string) bool {
	return request == "shell" || request == "exec" || request == "subsystem"
}

// open asks for the agent, if the client forwards one.
func (o *agentOffer) open(ctx context.Context) (ssh.Channel, <-chan *ssh.Request, error) {
	o.want()
	limit := time.NewTimer(agentPatience)
	defer limit.Stop()
	select {
	case <-o.said:
	case <-limit.C:
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
	o.mu.Lock()
	offered, client := o.offered, o.client
	o.mu.Unlock()
	if !offered || client == nil {
		return nil, nil, &agentError{words: "no agent was forwarded: ssh -A"}
	}
	stream, reqs, err := client.OpenChannel("auth-agent@openssh.com", nil)
	if err != nil {
		return nil, nil, &agentError{words: "your client did not give access to its agent", cause: err}
	}
	return stream, reqs, nil
}

// agentError says that an agent cannot be used, which is no reason not to go on without.
type agentError struct {
	words string
	cause error
}

// Error gives the words and the cause.
func (e *agentError) Error() string {
	if e.cause == nil {
		return e.words
	}
	return e.words + ": " + e.cause.Error()
}

// Unwrap gives the cause.
func (e *agentError) Unwrap() error { return e.cause }

// agentSigners gives keys of the person's agent that sign until ctx ends: first the one by which the gateway knows the person.
func (u *upstream) agentSigners(ctx context.Context, id *authz.Identity) ([]ssh.Signer, error) {
	stream, reqs, err := u.visit.agent.open(ctx)
	if err != nil {
		return nil, err
	}
	u.tasks.Go(func() { ssh.DiscardRequests(reqs) }) // ends with the channel
	context.AfterFunc(ctx, func() { _ = stream.Close() })
	// Nothing is written to the log or the audit of what an agent has; only the key that logs in is.
	signers, err := agent.NewClient(struct{ io.ReadWriter }{stream}).Signers()
	switch {
	case err != nil:
		return nil, &agentError{words: "your agent did not answer", cause: fmt.Errorf("list keys: %w", err)}
	case len(signers) == 0:
		return nil, &agentError{words: "your agent has no key for this"}
	}
	slices.SortStableFunc(signers, func(a, b ssh.Signer) int { return rank(a, id) - rank(b, id) })
	return signers[:min(len(signers), agentKeys)], nil
}

func rank(signer ssh.Signer, id *authz.Identity) int {
	if ssh.FingerprintSHA256(signer.PublicKey()) == id.Fingerprint {
		return 0
	}
	return 1
}
