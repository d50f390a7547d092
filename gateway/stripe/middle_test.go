package stripe

import (
	"bufio"
	"bytes"
	"io"
	"sync"
	"testing"
)

// middle stands between a proxy and a server: it can hold the server's answers back, see requests, and spoil them.
type middle struct {
	server server // behind it

	mu    sync.Mutex
	t     testing.TB
	heard *sync.Cond // a request has come, or none will
	ended bool       // none will
	seen  []byte     // the types of the requests since count
	spoil func(*packet) bool
	turn  func(*packet) [][]byte // what the server gets in place of a request; nil for that
	held  chan struct{}          // closed while answers may pass
}

// unasked is the id of requests that the proxy has not sent, and of whose answers it does not hear.
const unasked = 0xabcdef01

func inTheMiddle(of server) *middle {
	m := &middle{server: of, held: make(chan struct{})}
	m.heard = sync.NewCond(&m.mu)
	close(m.held)
	return m
}

// start is a server whose stream passes m.
func (m *middle) start(t testing.TB, dir string) io.ReadWriteCloser {
	m.mu.Lock()
	m.t, m.ended = t, false
	m.mu.Unlock()
	near, far := pipe(t)
	behind := m.server(t, dir)
	var both sync.WaitGroup
	both.Go(func() { m.requests(far, behind) })
	both.Go(func() { m.answers(behind, far) })
	near.end = func() {
		m.release()
		behind.Close()
		both.Wait()
	}
	return near
}

func (m *middle) requests(from *duplex, to io.ReadWriteCloser) {
	defer closeWrite(to)
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.ended = true
		m.heard.Broadcast()
	}()
	r := bufio.NewReader(from)
	for {
		pkt, err := readPacket(r)
		if err != nil {
			return
		}
		out := [][]byte{pkt.bytes()}
		m.mu.Lock()
		m.seen = append(m.seen, pkt.typ())
		m.heard.Broadcast()
		if m.spoil != nil && m.spoil(pkt) {
			out = [][]byte{spoiled(pkt)}
		}
		if m.turn != nil {
			out = m.turn(pkt)
		}
		m.mu.Unlock()
		if _, err := to.Write(bytes.Join(out, nil)); err != nil {
			return
		}
	}
}

// spoiled is a request of the same kind that the server will refuse: under a handle that is none.
func spoiled(pkt *packet) []byte {
	id, _ := pkt.id()
	switch pkt.typ() {
	case typWrite:
		return writeOf([]byte("none"), 0, []byte("lost"))(id)
	case typFsetstat:
		return newTruncate(id, []byte("none"), 0)
	default:
		return newOnHandle(pkt.typ(), id, []byte("none"))
	}
}

func (m *middle) answers(from io.ReadWriteCloser, to *duplex) {
	defer to.Close()
	r := bufio.NewReader(from)
	for {
		pkt, err := readPacket(r)
		if err != nil {
			return
		}
		m.mu.Lock()
		held := m.held
		m.mu.Unlock()
		<-held
		if id, _ := pkt.id(); id == unasked {
			continue
		}
		if _, err := to.Write(pkt.bytes()); err != nil {
			return
		}
	}
}

// hold keeps back every answer from now on, and counts anew.
func (m *middle) hold() {
	m.count()
	m.mu.Lock()
	defer m.mu.Unlock()
	m.held = make(chan struct{})
}

// count forgets the requests so far.
func (m *middle) count() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.seen = nil
}

func (m *middle) release() {
	m.mu.Lock()
	defer m.mu.Unlock()
	select {
	case <-m.held:
	default:
		close(m.held)
	}
}

// requested waits until there have been so many requests since count, and returns their types.
func (m *middle) requested(n int) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	for len(m.seen) < n {
		if m.ended {
			m.t.Fatalf("the stream has ended with %v; %d requests were waited for", m.seen, n)
		}
		m.heard.Wait()
	}
	return string(m.seen)
}

// turnInto has the server get something else than it was sent, from now on.
func (m *middle) turnInto(turn func(*packet) [][]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.turn = turn
}

// spoilNth has the server refuse the nth request of that type from now on, counted from 0.
func (m *middle) spoilNth(typ byte, n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.spoil = func(pkt *packet) bool {
		if pkt.typ() != typ {
			return false
		}
		n--
		return n == -1
	}
}
