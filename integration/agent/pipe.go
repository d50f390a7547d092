package agent

import (
	"io"
	"sync"
)

const pipeSize = 64 << 10 // bytes; about a socket pair's, which the real agent uses here

// pipe is a bounded byte queue. Small writes are joined, so that a read takes up to what it asks for, as from a socket.
type pipe struct {
	mu     sync.Mutex
	change sync.Cond
	data   []byte
	closed bool
}

func newPipe() *pipe {
	p := &pipe{}
	p.change.L = &p.mu
	return p
}

// Read waits for data; after close it gives what is left, then io.EOF.
func (p *pipe) Read(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.data) == 0 {
		if p.closed {
			return 0, io.EOF
		}
		p.change.Wait()
	}
	n := copy(b, p.data)
	p.data = append(p.data[:0], p.data[n:]...)
	p.change.Broadcast()
	return n, nil
}

// Write waits for room. A closed pipe takes nothing.
func (p *pipe) Write(b []byte) (written int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(b) > 0 {
		for !p.closed && len(p.data) >= pipeSize {
			p.change.Wait()
		}
		if p.closed {
			return written, io.ErrClosedPipe
		}
		n := min(len(b), pipeSize-len(p.data))
		p.data = append(p.data, b[:n]...)
		b, written = b[n:], written+n
		p.change.Broadcast()
	}
	return written, nil
}

func (p *pipe) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.closed = true
	p.change.Broadcast()
}
