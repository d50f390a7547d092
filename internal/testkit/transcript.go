package testkit

import (
	"bytes"
	"context"
	"regexp"
	"sync"
	"testing"
)

// Transcript collects what a program prints and lets tests wait for it.
type Transcript struct {
	mu    sync.Mutex
	buf   bytes.Buffer
	grown chan struct{} // closed and replaced at each write
}

// NewTranscript is empty.
func NewTranscript() *Transcript { return &Transcript{grown: make(chan struct{})} }

// Write implements io.Writer.
func (tr *Transcript) Write(p []byte) (int, error) {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	close(tr.grown)
	tr.grown = make(chan struct{})
	return tr.buf.Write(p)
}

// String is all so far.
func (tr *Transcript) String() string {
	tr.mu.Lock()
	defer tr.mu.Unlock()
	return tr.buf.String()
}

// Until waits until enough is true of all that has been printed. The error is that of ctx.
func (tr *Transcript) Until(ctx context.Context, enough func(text string) bool) error {
	for {
		tr.mu.Lock()
		text, grown := tr.buf.String(), tr.grown
		tr.mu.Unlock()
		if enough(text) {
			return nil
		}
		select {
		case <-grown:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Find waits for a match and gives its groups.
func (tr *Transcript) Find(t testing.TB, pattern string) (groups []string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	wanted := regexp.MustCompile(pattern)
	err := tr.Until(ctx, func(text string) bool {
		groups = wanted.FindStringSubmatch(text)
		return groups != nil
	})
	if err != nil {
		t.Fatalf("%q never came in: %s", pattern, tr)
	}
	return groups
}
