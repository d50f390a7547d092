package gateway

import (
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// fleet is the upstream connections of one stay: the first, which was opened ahead, and the lanes that the bridge asks for beside it.
type fleet struct {
	visit *visit
	first *upstream

	mu       sync.Mutex
	launched bool
}

// next gives the first connection, and after that a new one each time. A new one ends with its own Close; what it occupies is given back by whoever waits
// for its end, as the bridge does for each of its lanes.
func (f *fleet) next(ctx context.Context) (leg, error) {
	f.mu.Lock()
	first := !f.launched
	f.launched = true
	f.mu.Unlock()
	if first {
		return f.first.wait(ctx)
	}
	return f.further(ctx)
}

// further opens another connection, if the limits have room for it.
func (f *fleet) further(ctx context.Context) (leg, error) {
	v := f.visit
	srv, r := v.conn.srv, v.current()
	person, machine := r.identity.Person, r.target.Place()
	if srv.isDraining() {
		return leg{}, errShuttingDown
	}
	if err := srv.lanes.take(person, machine); err != nil {
		return leg{}, err
	}
	var up leg
	err := srv.lanes.login(ctx, machine, func() error {
		u := openUpstream(v)
		u.login(r.osUser)
		var err error
		if up, err = u.wait(ctx); err != nil {
			u.close()
			return err
		}
		up.conn = &furtherConn{Conn: up.conn, settle: sync.OnceFunc(func() {
			u.end()
			srv.lanes.give(person, machine)
		})}
		return nil
	})
	if err != nil {
		srv.lanes.give(person, machine)
		return leg{}, fmt.Errorf("open a further lane to %s: %w", r.named, err)
	}
	return up, nil
}

// furtherConn gives back what its lane occupied, when somebody has seen its end.
type furtherConn struct {
	ssh.Conn
	settle func()
}

// Wait implements ssh.Conn.
func (c *furtherConn) Wait() error {
	defer c.settle()
	return c.Conn.Wait()
}

// pushFresh is how long after its push a key is used for further logins. EC2 Instance Connect keeps it for 60 seconds; the rest is for the login itself.
const pushFresh = 45 * time.Second

// pushedKey is the one key of a stay. Each login within pushFresh of its push uses it without another push.
type pushedKey struct {
	turn chan struct{} // holds one while somebody pushes

	mu     sync.Mutex
	signer ssh.Signer
	known  string // for whom it was pushed, and as which role
	until  time.Time
}

func newPushedKey() *pushedKey { return &pushedKey{turn: make(chan struct{}, 1)} }

// key gives the key, made at first use. It lives in memory only.
func (p *pushedKey) key() (ssh.Signer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	if p.signer == nil {
		p.signer, err = ephemeralKey()
	}
	return p.signer, err
}

// push calls do unless the key is known on the machine to osUser. Logins side by side wait for one push.
func (p *pushedKey) push(ctx context.Context, role authz.Role, osUser string, do func() error) error {
	select {
	case p.turn <- struct{}{}:
		defer func() { <-p.turn }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	as, at := osUser+" "+role.ARN, time.Now()
	p.mu.Lock()
	fresh := p.known == as && at.Before(p.until)
	p.mu.Unlock()
	if fresh {
		return nil
	}
	err := do()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.known = ""; err == nil {
		p.known, p.until = as, at.Add(pushFresh)
	}
	return err
}
