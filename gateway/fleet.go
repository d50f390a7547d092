package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// fleet is the links of one stay: the first, which was opened ahead, and those that the bridge asks for beside it.
type fleet struct {
	visit *visit
	first *upstream

	mu       sync.Mutex
	launched bool
}

// next gives the first link, and after that a new one each time.
func (f *fleet) next(ctx context.Context) (*bridge.Link, error) {
	f.mu.Lock()
	first := !f.launched
	f.launched = true
	f.mu.Unlock()
	give := f.further
	if first {
		give = f.first.take
	}
	l, err := give(ctx)
	if err != nil {
		return nil, err
	}
	if f.visit.conn.srv.cfg.KeepWarm > 0 {
		l.Keep = func() { f.visit.keep(l) }
	}
	return l.Link, nil
}

// further opens another link, if the limits have room for it. What it occupies is given back when it ends.
func (f *fleet) further(ctx context.Context) (*link, error) {
	v := f.visit
	srv, r := v.conn.srv, v.current()
	person, machine := r.identity.Person, r.target.Place()
	if srv.isDraining() {
		return nil, errShuttingDown
	}
	if err := srv.takeLane(person, machine); err != nil {
		return nil, err
	}
	give := func() { srv.lanes.give(person, machine) }
	u := openFurther(v)
	defer u.close()
	u.login(r.osUser)
	up, err := u.take(ctx)
	if err != nil {
		give()
		return nil, fmt.Errorf("open a further lane to %s: %w", r.named, err)
	}
	up.occupy(give)
	return up, nil
}

// takeLane takes a seat for a further lane. Warm links make room.
func (s *Server) takeLane(person, machine string) error {
	for {
		err := s.lanes.take(person, machine)
		if !errors.Is(err, errLaneLimit) || !s.warm.yield(person, machine) {
			return err
		}
	}
}
