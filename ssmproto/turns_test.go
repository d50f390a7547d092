package ssmproto

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"
)

// agentPace is between two messages of an agent that has more to send (SPEC.md §7.6).
const agentPace = time.Second / 720

// kernelEnd is the client's end of a connection. Read gives all that has arrived, as a socket of the kernel does, whose peer's writes are not told apart.
type kernelEnd struct {
	net.Conn
	mu      sync.Mutex
	changed sync.Cond
	arrived bytes.Buffer
	err     error
	reads   int
}

func newKernelEnd(conn net.Conn) *kernelEnd {
	k := &kernelEnd{Conn: conn}
	k.changed.L = &k.mu
	go k.receive() // until Close, or the other end's
	return k
}

func (k *kernelEnd) receive() {
	p := make([]byte, 64<<10)
	var err error
	for err == nil {
		var n int
		n, err = k.Conn.Read(p)
		k.mu.Lock()
		k.arrived.Write(p[:n])
		k.err = err
		k.changed.Broadcast()
		k.mu.Unlock()
	}
}

func (k *kernelEnd) Read(p []byte) (int, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for k.arrived.Len() == 0 && k.err == nil {
		k.changed.Wait()
	}
	k.reads++
	if k.arrived.Len() == 0 {
		return 0, k.err
	}
	return k.arrived.Read(p)
}

func (k *kernelEnd) count() int {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.reads
}

// SetReadDeadline does nothing: the test ends sooner.
func (k *kernelEnd) SetReadDeadline(time.Time) error { return nil }

// once lets every message of the agent's pass once. The fake repeats what is not acknowledged within 50 ms; an agent waits for longer where acknowledgements come
// together.
func once() func(toAgent bool, frame []byte) [][]byte {
	var next int64
	return func(toAgent bool, frame []byte) [][]byte {
		if m, err := Parse(frame); !toAgent && err == nil && m.Type == OutputStreamData {
			if m.SequenceNumber < next {
				return nil
			}
			next = m.SequenceNumber + 1
		}
		return [][]byte{frame}
	}
}

// dialed opens a session over such a connection, at the rate that a session has by default.
func (f *fake) dialed() (c *Conn, end *kernelEnd) {
	f.t.Helper()
	f.relay = once()
	c = f.dial(func(o *Options) {
		o.MessageRate = 0
		o.Dialer.NetDialContext = func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := f.listener.dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			end = newKernelEnd(conn)
			return end, nil
		}
	})
	return c, end
}

// answers makes the agent send so many bytes at its pace, after a while, whenever it has heard a question of so many. It tells when it had heard the last.
func (f *fake) answers(question, answer int, after time.Duration) (heard func() time.Time) {
	var asked int
	var last time.Time
	f.onData = func(p []byte) {
		if asked += len(p); asked < question {
			return
		}
		asked = 0
		f.with(func() { last = time.Now() })
		f.serving.Go(func() {
			time.Sleep(after)
			for left := answer; left > 0; left -= 1024 {
				f.write(make([]byte, min(left, 1024)))
				if left > 1024 {
					time.Sleep(agentPace)
				}
			}
		})
	}
	return func() (at time.Time) { f.with(func() { at = last }); return at }
}

// TestAnswersAreNotKeptWaiting for more to come together: whoever asks, waits for the answer, and asks again is delayed by a small part of what it takes anyway.
// Time passes in the bubble only.
func TestAnswersAreNotKeptWaiting(t *testing.T) {
	const turns = 15
	for _, c := range []struct {
		question, answer int
		after            time.Duration
	}{
		{40, 40, 0}, // a key
		{40, 40, 30 * time.Millisecond},
		{100, 5100, 0}, // a small file
		{100, 20_100, 0},
		{100, 20_100, 30 * time.Millisecond},
		{100, 100_100, 0},
		{100, 100_100, 30 * time.Millisecond},
		{100, 400_100, 30 * time.Millisecond},
		{20_100, 100, 0},
		{20_100, 100, 30 * time.Millisecond},
		{100_100, 100, 30 * time.Millisecond},
		{400_100, 100, 30 * time.Millisecond},
		{50_100, 50_100, 30 * time.Millisecond},
	} {
		t.Run(fmt.Sprintf("%d and %d after %v", c.question, c.answer, c.after), func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fake) {
				heard := f.answers(c.question, c.answer, c.after)
				conn, _ := f.dialed()
				for turn := range turns {
					began := time.Now()
					mustWrite(t, conn, make([]byte, c.question))
					mustRead(t, conn, make([]byte, c.answer))
					took := time.Since(began)
					least := heard().Sub(began) + c.after + time.Duration((c.answer-1)/1024)*agentPace
					if late := took - least; late > least/gatherShare {
						t.Errorf("turn %d took %v, %v more than the agent and the permitted rate", turn, took, late)
					}
				}
			})
		})
	}
}

// TestBulkComesTogether is why anything ever waits: a download, and an upload's acknowledgements, are read in a small part of the reads that they are sent in.
func TestBulkComesTogether(t *testing.T) {
	for name, c := range map[string]struct{ question, answer int }{"down": {100, 4 << 20}, "up": {4 << 20, 100}} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, f *fake) {
				f.answers(c.question, c.answer, 30*time.Millisecond)
				conn, end := f.dialed()
				mustWrite(t, conn, make([]byte, c.question))
				mustRead(t, conn, make([]byte, c.answer))
				reads, messages := end.count(), conn.Stats().MessagesIn
				if messages < 4<<10 || int64(reads) > messages/10 {
					t.Errorf("%d reads for %d messages", reads, messages)
				}
			})
		})
	}
}

func TestBulk(t *testing.T) {
	at := func(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }
	var b bulk
	equal(t, "before anything", b.look(at(0), false, false, true), noGather)
	equal(t, "when ours begins", b.look(at(10), false, false, false), noGather)
	equal(t, "while it is under way", b.look(at(50), false, false, false), 40*time.Millisecond)
	b.heard(1024)
	equal(t, "when the agent begins, too", b.look(at(60), true, true, false), 50*time.Millisecond)
	equal(t, "when ours has arrived", b.look(at(70), false, false, true), 10*time.Millisecond)
	b.heard(fullPayload)
	equal(t, "as long as the agent's messages are full", b.look(at(100), true, true, true), 40*time.Millisecond)
	b.heard(500)
	b.heard(1024)
	equal(t, "after one that was not, and more", b.look(at(110), true, true, true), 50*time.Millisecond)
	b.heard(fullPayload - 1)
	equal(t, "at the end", b.look(at(120), true, false, true), noGather)
	b.heard(1024)
	equal(t, "when it was none", b.look(at(130), true, false, true), 70*time.Millisecond)
	b.heard(500)
	b.look(at(140), true, false, true)
	b.heard(1024)
	equal(t, "of an answer", b.look(at(141), true, true, true), noGather)
	b.heard(500)
	b.look(at(142), true, false, true)
	b.heard(1024)
	equal(t, "of what comes after a pause", b.look(at(153), true, false, true), noGather)
}
