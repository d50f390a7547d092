package gateway

import (
	"errors"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// link is one SSH connection of the gateway's own to the sshd of a machine, logged in. It has one holder at a time: upstream makes it, a bridge carries channels
// over it, and when the bridge's client has gone warmLinks may hold it for the same person's next connection.
type link struct {
	*bridge.Link
	facts linkFacts

	mu    sync.Mutex
	ended bool
	free  func() // gives back the seat that the link occupies; nil where it has none
}

// linkFacts is what is known of a link from its making.
type linkFacts struct {
	sessionID string        // of Session Manager
	offer     offer         // by what the login was
	hostKey   ssh.PublicKey // that the machine showed
	how       string        // why it was believed
	banner    string        // what the machine's sshd said before the login
}

// newLink begins to wait for the end of a connection. explain words that end.
func newLink(l bridge.Leg, facts linkFacts, explain func(error) error) *link {
	made := &link{facts: facts}
	made.Link = bridge.NewLink(l, func(err error) error {
		made.end()
		return explain(err)
	})
	return made
}

// hostKeyID is the fingerprint of the key that the machine showed.
func (l *link) hostKeyID() string { return ssh.FingerprintSHA256(l.facts.hostKey) }

// occupy keeps a seat until the link ends or vacate is called; free gives it back.
func (l *link) occupy(free func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ended {
		free()
		return
	}
	l.free = free
}

// seated reports whether the link occupies a seat.
func (l *link) seated() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.free != nil
}

// vacate gives the seat back before the end, if there is one.
func (l *link) vacate() {
	l.mu.Lock()
	free := l.free
	l.free = nil
	l.mu.Unlock()
	if free != nil {
		free()
	}
}

func (l *link) end() {
	l.mu.Lock()
	l.ended = true
	l.mu.Unlock()
	l.vacate()
}

// discard ends the link, politely towards AWS, and serves its streams until it has ended.
func (l *link) discard() {
	l.Leg.Discard()
	<-l.Gone
}

// endOf words the end of a connection to the machine named: what Session Manager ended the session for where it said so, else that the connection was lost.
// The error is an *authz.Refusal, so that a person is told in words.
func (c *carrier) endOf(named string) func(error) error {
	return func(err error) error {
		var ended *ssmproto.SessionEndedError
		if lost := c.readError(); errors.As(lost, &ended) {
			return &authz.Refusal{Reason: authz.ReasonSessionEnded, Subject: named, Detail: ended.Output, Cause: lost}
		}
		return &authz.Refusal{Reason: authz.ReasonSessionEnded, Subject: named, Detail: "the connection to the machine was lost", Cause: err}
	}
}
