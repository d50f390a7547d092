package awscloud

import (
	"time"

	lru "github.com/hashicorp/golang-lru/v2"
)

// memory keeps values of strings for a time, those that were used last where there are too many. It has no goroutine, unlike the library's expirable cache,
// which looks for what is out of date a hundred times within that time and keeps a gateway from sleeping. What is out of date is not given any more, and goes when
// something else takes its place or there is no room.
type memory[V any] struct {
	values   *lru.Cache[string, dated[V]]
	lifetime time.Duration
}

// dated is a value that counts until a time.
type dated[V any] struct {
	value V
	until time.Time
}

// newMemory keeps up to size values, which has to be positive, each for a lifetime.
func newMemory[V any](size int, lifetime time.Duration) *memory[V] {
	values, err := lru.New[string, dated[V]](size)
	if err != nil {
		panic("awscloud: " + err.Error()) // a size that is not positive
	}
	return &memory[V]{values: values, lifetime: lifetime}
}

// get gives a value that is there and still counts.
func (m *memory[V]) get(key string) (value V, ok bool) {
	kept, ok := m.values.Get(key)
	if !ok || !time.Now().Before(kept.until) {
		return value, false
	}
	return kept.value, true
}

// add keeps a value, in place of another one under the key.
func (m *memory[V]) add(key string, value V) {
	m.values.Add(key, dated[V]{value, time.Now().Add(m.lifetime)})
}

// forget drops what is under the key.
func (m *memory[V]) forget(key string) { m.values.Remove(key) }

// forgetAll drops every value of which that is true.
func (m *memory[V]) forgetAll(unwanted func(V) bool) {
	for _, key := range m.values.Keys() {
		if kept, ok := m.values.Peek(key); ok && unwanted(kept.value) {
			m.values.Remove(key)
		}
	}
}
