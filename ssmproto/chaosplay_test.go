package ssmproto

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

// chaosLimit bounds a schedule in virtual time: mishaps last minutes, and lost messages are repeated every few seconds.
const chaosLimit = 3 * time.Hour

// flow is one direction of one stream: what its sender writes and what its receiver has got. The lock of the fake guards it.
type flow struct {
	name string
	want []byte
	got  []byte
	err  error // that ended its reader at the client
}

func (l *flow) complete() bool { return len(l.got) >= len(l.want) }

// chaosRun is a schedule being played.
type chaosRun struct {
	*fake
	t     *testing.T
	plan  chaosPlan
	links [2]*chaosLink // to the agent, to the client
	began time.Time
	over  chan struct{} // the play is over, for the mishaps
	tasks sync.WaitGroup
	conn  chaosConn

	up, down []*flow
	errs     []error // of the client
	written  int     // flows that the client has written
	fails    int     // resumes that are to fail
	stale    int     // tokens that are to be worth nothing
	ended    bool    // at the service
}

// chaosConn is what can be closed: a Conn or a Mux.
type chaosConn interface {
	Close() error
	CloseNow() error
}

// play runs the schedule in the bubble of t.
func (p chaosPlan) play(t *testing.T) {
	r := &chaosRun{t: t, plan: p, began: time.Now(), over: make(chan struct{})}
	r.prepare()
	defer r.tasks.Wait()
	defer close(r.over)
	r.tasks.Go(r.mishaps)
	r.tasks.Go(r.agentTalks)
	if err := r.open(); err != nil {
		r.with(func() { r.ended = true }) // nobody has to terminate what Dial gave up
		if !p.mortal() && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("opening: %v", err)
		}
		return
	}
	defer func() { _ = r.conn.CloseNow() }()
	r.awaitFor(chaosLimit, "the end of the transfer", r.settled)
	err := r.finish()
	r.check(err)
}

// settled says that the client may end. The caller holds the lock of the fake.
func (r *chaosRun) settled() bool {
	if len(r.errs) > 0 {
		return true
	}
	if r.plan.end == closedAtOnce {
		return r.written == len(r.up)
	}
	for _, l := range append(r.up, r.down...) {
		if !l.complete() {
			return false
		}
	}
	return true
}

// finish ends the session the way the schedule wants it.
func (r *chaosRun) finish() error {
	if r.plan.end == closedByAgent && !r.plan.mortal() {
		r.awaitFor(chaosLimit, "the acknowledgements of the end", func() bool { return len(r.unacked) == 0 })
		r.with(func() { r.ended = true })
		r.closeSession("")
		r.awaitFor(chaosLimit, "the client to notice the end", func() bool { return len(r.errs) >= len(r.down) })
	}
	err := r.conn.Close()
	if err == nil && !r.plan.mortal() {
		r.awaitFor(chaosLimit, "what Close has delivered", func() bool {
			for _, l := range r.up {
				if !l.complete() {
					return false
				}
			}
			return true
		})
	}
	r.awaitFor(chaosLimit, "the readers to end", func() bool {
		for _, l := range r.down {
			if l.err == nil {
				return false
			}
		}
		return true
	})
	return err
}

// check judges the bytes and the end. closeErr is what Close said.
func (r *chaosRun) check(closeErr error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if closeErr != nil && !r.plan.mortal() {
		r.t.Errorf("close: %v", closeErr)
	}
	for _, l := range r.up {
		r.compare(l, r.plan.mortal())
	}
	for _, l := range r.down {
		r.compare(l, r.plan.mortal() || r.plan.end == closedAtOnce)
		if !l.complete() && errors.Is(l.err, io.EOF) {
			r.t.Errorf("%s: cut without an error", l.name)
		}
	}
	asked := false
	for _, frame := range r.frames { // what has arrived: it is acknowledged first and taken then
		m, err := Parse(frame)
		asked = asked || err == nil && m.PayloadType == PayloadFlag
	}
	if r.terminated == 0 && !asked && !r.ended {
		r.t.Error("the session was left open")
	}
}

// compare wants all of a flow, or its beginning where the session was allowed to end.
func (r *chaosRun) compare(l *flow, mayBeCut bool) {
	switch {
	case mayBeCut && len(l.got) < len(l.want):
		if !bytes.HasPrefix(l.want, l.got) {
			r.t.Errorf("%s: what came of it is not its beginning", l.name)
		}
	case sha256.Sum256(l.got) != sha256.Sum256(l.want):
		r.t.Errorf("%s: %d of %d bytes arrived, the same: %v; errors of the client: %v", l.name, len(l.got), len(l.want),
			bytes.HasPrefix(l.want, l.got), r.errs)
	}
}

// prepare makes the service and the agent of the schedule.
func (r *chaosRun) prepare() {
	p := &r.plan
	streams := 1
	if p.kind == muxedPort {
		streams = p.streams
		r.fake = agent(r.t, muxRequest, r.serveStream)
	} else {
		r.fake = newFake(r.t)
		r.onData = func(b []byte) {
			time.Sleep(p.slowAgent)
			r.with(func() { r.up[0].got = append(r.up[0].got, b...) })
		}
	}
	switch p.kind {
	case shellSession:
		r.request = ""
	case commandSession:
		r.request = commandRequest()
	}
	for i := range streams {
		r.up = append(r.up, &flow{name: "up", want: noise(p.seed+uint64(2*i), p.up)})
		r.down = append(r.down, &flow{name: "down", want: noise(p.seed+uint64(2*i)+1, p.down)})
		r.up[i].want[0] = byte(i) // tells the agent which stream it is
	}
	if p.kind == commandSession {
		r.down = append(r.down, &flow{name: "standard error", want: noise(p.seed+9, p.down)})
	}
	r.refuseData = func(seq int64) bool { return (seq > 0 || p.kind == shellSession) && time.Since(r.began) < p.readyAfter }
	r.resumeWith = r.token
	r.links[0] = newChaosLink(p.toAgent, p.seed, r.stop, r.take)
	r.links[1] = newChaosLink(p.toClient, p.seed+1, r.stop, r.deliver)
	for _, l := range r.links {
		r.serving.Go(l.run)
	}
	r.relay = func(toAgent bool, frame []byte) [][]byte {
		if toAgent {
			r.links[0].take(frame)
		} else {
			r.links[1].take(frame)
		}
		return nil
	}
}

// token is what ResumeSession gives just now.
func (r *chaosRun) token(context.Context) (Token, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.ended:
		return Token{}, ErrSessionOver
	case r.deaf:
		return Token{}, errors.New("no route")
	case r.fails > 0:
		r.fails--
		return Token{}, errors.New("internal server error")
	case r.stale > 0:
		r.stale--
		return NewToken("stale"), nil
	}
	r.tokens++
	r.valid = "token-" + strings.Repeat("x", r.tokens%7)
	return NewToken(r.valid), nil
}

// open opens the session and starts the client's readers and writers.
func (r *chaosRun) open() error {
	p := &r.plan
	o := r.options()
	o.MaxPayload, o.MessageRate, o.Window, o.ReadBuffer, o.ResumeFor = p.payload, p.rate, p.window, p.readAhead, p.resumeFor
	o.HandshakeTimeout, o.DrainTimeout, o.PeerCheck, o.PeerTimeout = chaosLimit, chaosLimit, p.peerCheck, p.resumeFor
	switch p.kind {
	case muxedPort:
		c, err := Dial(r.t.Context(), r.grant(), o)
		if err != nil {
			return err
		}
		m, err := NewMux(c)
		if err != nil {
			return errors.Join(err, c.CloseNow())
		}
		r.with(func() { r.conn = m })
		for i := range r.up {
			s, err := m.Open(r.t.Context())
			if err != nil {
				return errors.Join(err, m.CloseNow())
			}
			r.tasks.Go(func() { r.readAll(s, r.down[i]) })
			r.tasks.Go(func() { r.writeAll(s, r.up[i]) })
		}
	default:
		s, err := DialShell(r.t.Context(), r.grant(), o)
		if err != nil {
			return err
		}
		r.with(func() { r.conn = s })
		if p.kind == shellSession {
			if err := s.Resize(Size{Cols: 80, Rows: 24}); err != nil {
				return errors.Join(err, s.CloseNow())
			}
		}
		r.tasks.Go(func() { r.readAll(s, r.down[0]) })
		r.tasks.Go(func() { r.writeAll(s, r.up[0]) })
		if p.kind == commandSession {
			r.tasks.Go(func() { r.readAll(s.Stderr(), r.down[1]) })
		}
	}
	return nil
}
