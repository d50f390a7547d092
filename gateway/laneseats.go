package gateway

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// laneSeats counts lanes beside the first of their connection: those of one person, and those to one machine. The first needs no seat: a connection without
// any is of no use to anybody, and connections have limits of their own.
type laneSeats struct {
	limits Limits

	mu        sync.Mutex
	byPerson  map[string]int
	byMachine map[string]int           // by authz.Instance.Place
	logins    map[string]chan struct{} // turns to log in to a machine, while somebody has a seat there
}

// loginsAtOnce is how many further lanes log in to one machine at the same time: all that one large file asks for, so that they are there together. The
// machine's sshd sees them all come from one address, and drops logins at random from ten unfinished ones on (MaxStartups of sshd_config(5)), also those of
// people who have no lane yet.
const loginsAtOnce = 7

// errLaneLimit is why there is no further lane.
var errLaneLimit = errors.New("no further lane: as many are open as may be")

func newLaneSeats(limits Limits) *laneSeats {
	return &laneSeats{limits: limits, byPerson: map[string]int{}, byMachine: map[string]int{}, logins: map[string]chan struct{}{}}
}

// take counts a lane, or says which limit it would pass. give must follow a take that gave no error.
func (s *laneSeats) take(person, machine string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.byPerson[person] >= s.limits.LanesPerPerson:
		return fmt.Errorf("%w by %s", errLaneLimit, person)
	case s.byMachine[machine] >= s.limits.LanesPerMachine:
		return fmt.Errorf("%w to %s", errLaneLimit, machine)
	}
	s.byPerson[person]++
	s.byMachine[machine]++
	if s.logins[machine] == nil {
		s.logins[machine] = make(chan struct{}, loginsAtOnce)
	}
	return nil
}

func (s *laneSeats) give(person, machine string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byPerson[person]--; s.byPerson[person] == 0 {
		delete(s.byPerson, person)
	}
	if s.byMachine[machine]--; s.byMachine[machine] == 0 {
		delete(s.byMachine, machine)
		delete(s.logins, machine)
	}
}

// login runs do when it is its turn on the machine. The caller has a seat there.
func (s *laneSeats) login(ctx context.Context, machine string, do func() error) error {
	s.mu.Lock()
	turns := s.logins[machine]
	s.mu.Unlock()
	select {
	case turns <- struct{}{}:
		defer func() { <-turns }()
		return do()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
