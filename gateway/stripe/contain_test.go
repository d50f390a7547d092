package stripe

import (
	"errors"
	"io"
	"strings"
	"testing"
)

// trap is a stream with a fault of ours behind it.
type trap struct{ io.ReadWriteCloser }

func (trap) Read([]byte) (int, error) { panic("a fault in reading") }

// TestAFaultEndsItsStreamOnly: a panic in a goroutine of the proxy would otherwise end the process, and everybody who is connected.
func TestAFaultEndsItsStreamOnly(t *testing.T) {
	client, near := pipe(t)
	server, far := pipe(t)
	p := New(near, trap{far}, Config{})
	err := p.Run(t.Context())
	if !errors.Is(err, errFault) || !strings.Contains(err.Error(), "a fault in reading") {
		t.Errorf("ended with %v", err)
	}
	for _, half := range []*duplex{client, near, server, far} {
		half.Close()
	}
	p.Wait()
}
