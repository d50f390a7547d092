package ssmproto

import (
	"context"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Conn is one session. It is a net.Conn whose bytes are the Output of the session; all its methods may be called from several goroutines.
// It occupies something at the service until Close or CloseNow is called, also after Read or Write have failed.
type Conn struct {
	grant    Grant
	options  Options
	log      *slog.Logger
	clientID UUID // the same for all connections of the session (SPEC.md §2.2)

	ctx        context.Context // ends when the state becomes Closed
	cancel     context.CancelFunc
	goroutines sync.WaitGroup
	kick       chan struct{} // wakes the writer
	hurry      context.Context
	rush       context.CancelFunc // CloseNow: wait for nothing more
	closing    atomic.Bool        // somebody is shutting down, or has
	closed     chan struct{}      // closed when that is done; a channel and no sync.Once, whose waiting stops the clock of a synctest bubble
	closeError error

	// composing is a lock, held while a sequenced message is made, from taking its number to queueing it; taken before mu. As a channel it is given in the
	// order of asking, so that a keystroke waits for one message of bulk at most.
	composing chan struct{}

	mu        sync.Mutex
	news      news      // what the reader has not told the others yet
	bulk      bulk      // how long there has been any
	readable  sync.Cond // something to read, or a reason not to wait for it
	progress  sync.Cond // everything else that is waited for: room in a window, a state, a deadline
	state     State
	resumeTo  State // where Resuming leads back to
	err       error // why the state is Closed
	abandon   bool  // the owner has closed: nobody will read
	ended     bool  // the session is over at the service: there is nothing left to terminate
	endedWell bool  // the service has ended the session, without a text and with nothing missing
	socket    *socket

	peer       peer
	greeted    bool           // a handshake request has been answered
	presumed   bool           // open without a sign of the agent (SPEC.md §5.1)
	wasOpen    bool           // the state has been Open, though it may be past that when Dial looks
	cipher     *sessionCipher // of an encrypted session; nil for others
	challenged bool           // the agent's challenge has been answered
	refused    error          // why the handshake cannot succeed; the agent has been told
	paused     time.Time      // since when the service wants no data (SPEC.md §4.5); zero when it does
	holdTill   time.Time      // no Output before; zero when it may flow
	pingAt     time.Time
	lostAt     time.Time // since when there is no connection; zero while there is one
	vigil      vigil
	discovery  discovery

	send    sendWindow
	recv    recvWindow
	acks    ackQueue
	pace    pacer
	resting bool // the writer may send nothing more just now, and looks again by itself within moments

	unread   frameQueue
	stderr   frameQueue
	keepErr  bool // standard error is wanted (Shell)
	exitCode *int
	muxed    bool // the bytes are smux frames
	claimed  bool // by a Mux
	flagged  int  // ConnectToPortError flags that no stream has claimed yet
	stalled  bool // the network is not read, because too much is unread
	// awaitsRoom says that a Write waits for the window, and with it for what comes from the network.
	awaitsRoom bool

	readLimit, writeLimit deadline
	counts                counts
}

type counts struct{ messagesIn, messagesOut, bytesIn, bytesOut, resumes int64 }

// Stats is a look at a session: what it holds now, and what it has done since Dial. Sizes are in bytes.
type Stats struct {
	State                   State
	UnackedBytes            int           // payload that is queued or under way
	MaxPayload              int           // what a message carries at most, by Options.MaxPayload or as discovered
	RoundTrip               time.Duration // smoothed; 0 before the first acknowledgement
	Resends                 int64         // messages sent again
	Resumes                 int64         // connections after the first
	MessagesIn, MessagesOut int64         // of all kinds, repeats included
	BytesIn, BytesOut       int64         // payload of the session's data, each byte once
}

// Stats gives the present numbers. It may be called at any time, also after Close, and does not allocate.
func (c *Conn) Stats() Stats {
	c.mu.Lock()
	defer c.mu.Unlock()
	return Stats{
		State: c.state, UnackedBytes: c.send.payload, MaxPayload: c.discovery.size, RoundTrip: c.send.rtt.smoothed, Resends: c.send.resends, Resumes: c.counts.resumes,
		MessagesIn: c.counts.messagesIn, MessagesOut: c.counts.messagesOut, BytesIn: c.counts.bytesIn, BytesOut: c.counts.bytesOut,
	}
}

// SessionID gives the id of the session.
func (c *Conn) SessionID() string { return c.grant.SessionID }

// SessionType gives the type that the agent announced, or Standard_Stream when it sent output without a handshake (SPEC.md §5.1).
func (c *Conn) SessionType() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peer.sessionType
}

// AgentVersion gives the version of the agent; empty when there was no handshake.
func (c *Conn) AgentVersion() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peer.agentVersion
}

// Message gives what the agent wants the user to read at the beginning, such as that the session is encrypted; mostly empty.
func (c *Conn) Message() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peer.message
}

// Multiplexed says whether the session must be used through NewMux: the agent reads what is written as smux frames (SPEC.md §7.2).
func (c *Conn) Multiplexed() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.muxed
}

// Read gives received data. After the end of the session it gives what is left, and then io.EOF if the session ended normally, a
// *SessionEndedError with the text of the service if it did not, or the reason why the connection failed.
func (c *Conn) Read(p []byte) (int, error) { return c.readFrom(&c.unread, p) }

func (c *Conn) readFrom(q *frameQueue, p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		switch {
		case c.abandon:
			return 0, net.ErrClosed
		case !c.claimed && c.muxed:
			return 0, ErrMultiplexed
		case c.readLimit.passed:
			return 0, os.ErrDeadlineExceeded
		case len(p) == 0:
			return 0, nil
		}
		if n := q.read(p); n > 0 {
			if c.stalled && !c.overfull() {
				c.progress.Broadcast()
			}
			return n, nil
		}
		if c.state == Closed {
			return 0, c.readError()
		}
		c.readable.Wait()
	}
}

// ackReserve is how much more than Options.ReadBuffer may be unread while a Write waits for acknowledgements: they come behind the data, and who ought to read
// that may be waiting for the Write itself, as SSH libraries answer one message before they look at the next. It is what the sockets of two hops hold.
const ackReserve = 32 << 20

// overfull says that so much is unread that no more is taken from the network.
func (c *Conn) overfull() bool {
	most := c.options.ReadBuffer
	if c.awaitsRoom {
		most += ackReserve
	}
	return c.unread.size+c.stderr.size >= most
}

// readError translates the end of the session for Read: a normal one is the end of the stream.
func (c *Conn) readError() error {
	if c.endedWell {
		return io.EOF
	}
	return c.err
}

// Write queues p for sending, cut into messages, and waits while the window is full. Success does not mean that the bytes have arrived: Close
// says whether they have been acknowledged. It fails with os.ErrDeadlineExceeded, with net.ErrClosed after Close, with ErrMultiplexed where NewMux has to be used, and
// after the end of the session with the reason for that.
func (c *Conn) Write(p []byte) (int, error) {
	written := 0
	for {
		n, err := c.writePart(p[written:])
		if written += n; err != nil || written == len(p) {
			return written, err
		}
	}
}

// writePart queues as much of p as one message takes. In port sessions, where only the order of bytes means something, that is the last message in the
// queue if it has room: short messages would waste the permitted rate.
func (c *Conn) writePart(p []byte) (int, error) {
	c.composing <- struct{}{}
	defer func() { <-c.composing }()
	c.mu.Lock()
	joined := 0
	if c.peer.sessionType == SessionPort && c.mayWrite() == nil {
		joined = c.send.join(p, c.discovery.size)
		c.counts.bytesOut += int64(joined)
	}
	most := c.discovery.size
	c.mu.Unlock()
	if joined > 0 {
		return joined, nil
	}
	p = p[:min(len(p), most)]
	if err := c.composed(PayloadOutput, p, true); err != nil {
		return 0, err
	}
	return len(p), nil
}

// compose makes one sequenced message and queues it, after waiting for room if patient. An empty payload is not sent: neither side's code can
// take it (SPEC.md §3.5).
func (c *Conn) compose(kind PayloadType, payload []byte, patient bool) error {
	c.composing <- struct{}{}
	defer func() { <-c.composing }()
	return c.composed(kind, payload, patient)
}

// composed is compose for a caller that holds composing.
func (c *Conn) composed(kind PayloadType, payload []byte, patient bool) error {
	c.mu.Lock()
	err := c.awaitRoom(patient)
	seq, secret, most := c.send.next, c.cipher, c.discovery.size
	c.mu.Unlock()
	if err != nil || len(payload) == 0 {
		return err
	}
	if secret != nil && kind == PayloadOutput {
		payload = secret.seal(payload)
	}
	f := encode(kind, seq, payload)
	if len(payload) >= most {
		f.seal() // here, and not in the writer, which has the socket to serve
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.queue(f)
	return nil
}

// awaitRoom waits until one more message may be queued. The caller holds composing and mu.
func (c *Conn) awaitRoom(patient bool) error {
	if !patient {
		if c.state == Closed {
			return c.err
		}
		return nil
	}
	for {
		if err := c.mayWrite(); err != nil || !c.send.full() {
			return err
		}
		c.awaitsRoom = true
		if c.stalled {
			c.progress.Broadcast()
		}
		c.progress.Wait()
		c.awaitsRoom = false
	}
}

// mayWrite gives the reason why nothing more may be written. The caller holds mu.
func (c *Conn) mayWrite() error {
	switch {
	case c.abandon:
		return net.ErrClosed
	case !c.claimed && c.muxed:
		return ErrMultiplexed // plain bytes would reach the agent as broken frames
	case c.state == Closed:
		return c.err
	case c.writeLimit.passed:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// awaitWindow waits until the session could send one message more, or has ended.
func (c *Conn) awaitWindow(ctx context.Context) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.await(ctx, func() bool { return c.state == Open && !c.send.full() || c.state == Draining || c.state == Closed })
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// encode makes the frame of a sequenced message, except for what depends on its whole payload: seal adds that.
func encode(kind PayloadType, seq int64, payload []byte) *frame {
	f := newFrame(Overhead + len(payload))
	f.seq, f.kind = seq, kind
	m := Message{Type: InputStreamData, SchemaVersion: 1, Created: time.Now(), SequenceNumber: seq, ID: NewUUID(), PayloadType: kind}
	f.buf = append(m.appendHeader(f.buf[:0]), payload...)
	return f
}

// queue hands f to the writer. The caller holds mu.
func (c *Conn) queue(f *frame) {
	c.send.push(f, time.Now())
	if c.vigil.first == nil {
		f.seal()
		c.vigil.keep(f)
	}
	if f.kind == PayloadOutput {
		c.counts.bytesOut += int64(len(f.buf) - Overhead)
	}
	c.wake()
}

// wake makes the writer look for work, unless it rests until it may send again and looks then. The caller holds mu.
func (c *Conn) wake() {
	if c.resting {
		return
	}
	select {
	case c.kick <- struct{}{}:
	default:
	}
}

// fail ends the session for the given reason. Only the first reason counts. The caller holds mu.
func (c *Conn) fail(reason error) {
	if !c.enter(Closed) {
		return
	}
	c.err = reason
	c.cancel()
	if c.socket != nil {
		c.socket.close()
	}
}

// Addr is the address of both ends of a session: its id.
type Addr struct{ SessionID string }

// Network gives "ssm".
func (Addr) Network() string { return "ssm" }

// String gives the id of the session.
func (a Addr) String() string { return a.SessionID }

// LocalAddr gives the session as an address.
func (c *Conn) LocalAddr() net.Addr { return Addr{c.grant.SessionID} }

// RemoteAddr gives the session as an address.
func (c *Conn) RemoteAddr() net.Addr { return Addr{c.grant.SessionID} }
