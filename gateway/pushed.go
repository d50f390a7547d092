package gateway

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// pushFresh is how long after its push a key is used for further logins. EC2 Instance Connect keeps it for 60 seconds; the rest is for the login itself.
const pushFresh = 45 * time.Second

// pushedKept bounds pushedKeys; what falls out costs its owner one more push.
const pushedKept = 4096

// pushedFor is for whom a key was pushed, and where: whoever differs in anything gets a key of their own.
type pushedFor struct{ person, role, place, osUser string }

func (r *route) pushedFor() pushedFor {
	return pushedFor{person: r.identity.Person, role: roleID(r.role), place: r.target.Place(), osUser: r.osUser}
}

// pushedKeys are the keys that machines have been told of within the last minute, so that a loop of logins asks Instance Connect, which throttles, once.
type pushedKeys struct {
	mu   sync.Mutex // makes get-or-create one step
	held *lru.Cache[pushedFor, *pushedKey]
}

func newPushedKeys() (*pushedKeys, error) {
	held, err := lru.New[pushedFor, *pushedKey](pushedKept)
	return &pushedKeys{held: held}, err
}

func (k *pushedKeys) of(whom pushedFor) *pushedKey {
	k.mu.Lock()
	defer k.mu.Unlock()
	if known, ok := k.held.Get(whom); ok {
		return known
	}
	fresh := &pushedKey{turn: make(chan struct{}, 1)}
	k.held.Add(whom, fresh)
	return fresh
}

// drop makes the next login a push.
func (k *pushedKeys) drop(whom pushedFor) { k.held.Remove(whom) }

// forget makes the next login of everybody a push. It is for when people and policy have changed.
func (k *pushedKeys) forget() { k.held.Purge() }

// pushedKey is the key of one person as one user of one machine. It lives in memory only, and a new push is one of a new key.
type pushedKey struct {
	turn chan struct{} // holds one while somebody pushes

	mu     sync.Mutex
	signer ssh.Signer
	until  time.Time
}

// get gives the key that the machine knows, after do has pushed one if it knows none. Logins side by side wait for one push.
func (p *pushedKey) get(ctx context.Context, do func(ssh.PublicKey) error) (ssh.Signer, error) {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	at := time.Now()
	p.mu.Lock()
	known, fresh := p.signer, at.Before(p.until)
	p.mu.Unlock()
	if fresh {
		return known, nil
	}
	signer, err := ephemeralKey()
	if err != nil {
		return nil, err
	}
	if err := do(signer.PublicKey()); err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.signer, p.until = signer, at.Add(pushFresh)
	return signer, nil
}

// ephemeralKey makes a key for logins. Ed25519, because the machine's side takes nothing else but RSA.
func ephemeralKey() (ssh.Signer, error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	return ssh.NewSignerFromSigner(private)
}

// pushing is a key push under way.
type pushing struct {
	done  chan struct{}
	key   ssh.Signer // valid once done is closed, as what follows
	until time.Time  // when the key is too old to begin a login with
	err   error
}

// push lets a key in for a minute, unless one is in already: as soon as the OS user is known, beside everything else. Where Instance Connect is no way into the
// machine, it does nothing.
func (u *upstream) push(ctx context.Context) *pushing {
	p := &pushing{done: make(chan struct{})}
	u.tasks.Go(func() {
		defer close(p.done)
		defer logPanic(u.visit.log, "key push")
		p.err = errors.New("the key push did not finish") // unless it does
		osUser, err := u.awaitUser(ctx)
		if err != nil {
			p.err = err
			return
		}
		if ways, _ := u.visit.ways(); !slices.Contains(ways, authz.LoginInstanceConnect) {
			return
		}
		began, r := time.Now(), u.route.withUser(osUser)
		key, err := u.srv.pushed.of(r.pushedFor()).get(ctx, func(key ssh.PublicKey) error {
			return u.srv.cfg.Cloud.PushKey(ctx, r.role, r.target, r.osUser, key)
		})
		u.visit.stage(stepPush, began)
		if err != nil {
			p.err = fmt.Errorf("push a key for %s to %s: %w", r.osUser, r.target.ID, err)
			return
		}
		p.key, p.until, p.err = key, began.Add(pushFresh), nil
	})
	return p
}

// stale reports whether the push went well, but too long ago: StartSession may have waited in a queue since.
func (p *pushing) stale() bool {
	return closedAlready(p.done) && p.err == nil && !time.Now().Before(p.until)
}

// wait gives the key when the machine knows it.
func (p *pushing) wait(ctx context.Context) (ssh.Signer, error) {
	select {
	case <-p.done:
		return p.key, p.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// failed is the error of a push that is over; nil for one that went well or is still under way.
func (p *pushing) failed() error {
	select {
	case <-p.done:
		return p.err
	default:
		return nil
	}
}
