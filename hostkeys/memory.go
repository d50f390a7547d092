package hostkeys

import (
	"context"
	"slices"
	"sync"
)

// MemoryStore keeps pins as long as the process lives. It grows with the number of machines that were reached, and that number is its bound: a place
// is pinned only after AWS has named it.
type MemoryStore struct {
	mu   sync.Mutex
	pins map[string]Pin
}

// NewMemoryStore makes an empty one.
func NewMemoryStore() *MemoryStore { return &MemoryStore{pins: map[string]Pin{}} }

// Get implements PinStore.
func (s *MemoryStore) Get(ctx context.Context, place string) (Pin, error) {
	if err := ctx.Err(); err != nil {
		return Pin{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pin, ok := s.pins[place]
	if !ok {
		return Pin{}, ErrNotPinned
	}
	return pin.clone(), nil
}

// PutIfAbsent implements PinStore.
func (s *MemoryStore) PutIfAbsent(ctx context.Context, pin Pin) (Pin, error) {
	if err := ctx.Err(); err != nil {
		return Pin{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pins[pin.Place]; !ok {
		s.pins[pin.Place] = pin.clone()
	}
	return s.pins[pin.Place].clone(), nil
}

// Replace implements PinStore.
func (s *MemoryStore) Replace(ctx context.Context, pin Pin) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pins[pin.Place] = pin.clone()
	return nil
}

// Delete implements PinStore.
func (s *MemoryStore) Delete(ctx context.Context, place string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.pins[place]; !ok {
		return ErrNotPinned
	}
	delete(s.pins, place)
	return nil
}

// List implements PinStore.
func (s *MemoryStore) List(ctx context.Context) ([]Pin, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	pins := make([]Pin, 0, len(s.pins))
	for _, pin := range s.pins {
		pins = append(pins, pin.clone())
	}
	sortPins(pins)
	return pins, nil
}

func (p Pin) clone() Pin {
	p.Keys = slices.Clone(p.Keys)
	return p
}
