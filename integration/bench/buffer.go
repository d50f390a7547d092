package main

import (
	"bytes"
	"sync"
)

// limitedBuffer keeps the first few KiB of what a process says.
type limitedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

const saidLimit = 4 << 10

// Write keeps what fits and takes the rest.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.text.Write(p[:min(len(p), max(saidLimit-b.text.Len(), 0))])
	return len(p), nil
}

func (b *limitedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
