package gateway

import (
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
	byMachine map[string]int // by authz.Instance.Place
}

// errLaneLimit is why there is no further lane.
var errLaneLimit = errors.New("no further lane: as many are open as may be")

func newLaneSeats(limits Limits) *laneSeats {
	return &laneSeats{limits: limits, byPerson: map[string]int{}, byMachine: map[string]int{}}
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
	}
}
