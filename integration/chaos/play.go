package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

const (
	greeting = "!"
	headSize = 9 // number of the play, number of the stream
)

func parseHead(head [headSize]byte) (number uint64, stream int) {
	return binary.BigEndian.Uint64(head[:]), int(head[8])
}

// flow is one direction of one stream. The lock of its play guards what changes.
type flow struct {
	name string
	want []byte
	got  []byte
	err  error // that ended the client's reader
}

func (f *flow) complete() bool { return len(f.got) >= len(f.want) }

// play is one schedule being played on one machine.
type play struct {
	schedule

	world   *world
	machine string
	agent   *agent.Agent
	session string

	mu       sync.Mutex
	changed  chan struct{}
	up, down []*flow
	reading  sync.Mutex // held while the client's reader pauses
	failed   error      // of the client, the first
	exitCode func() (int, bool)
	closers  []func() error // in the order of use; the last one ends the session
	tasks    sync.WaitGroup
}

// text is random bytes that a terminal leaves alone.
func text(r *rand.ChaCha8, n int) []byte {
	b := make([]byte, n)
	_, _ = r.Read(b)
	return []byte(base64.StdEncoding.EncodeToString(b))[:n]
}

func newPlay(w *world, machine string, s schedule) *play {
	p := &play{schedule: s, world: w, machine: machine, changed: make(chan struct{})}
	var key [32]byte
	binary.BigEndian.PutUint64(key[:], s.seed)
	r := rand.NewChaCha8(key)
	streams := 1
	if s.kind == muxedPort {
		streams = s.streams
	}
	for i := range streams {
		up, down := &flow{name: "up", want: text(r, s.up)}, &flow{name: "down", want: text(r, s.down)}
		switch s.kind {
		case shell: // an echo
			down.want = append([]byte(greeting), up.want...)
			up.got = up.want
		case command: // has no input
			up.want = nil
		default:
			head := binary.BigEndian.AppendUint64(nil, s.seed)
			up.want = append(append(head, byte(i)), up.want...)
			down.want = append([]byte(greeting), down.want...)
		}
		p.up, p.down = append(p.up, up), append(p.down, down)
	}
	if s.kind == command {
		p.down = append(p.down, &flow{name: "standard error", want: text(r, s.down)})
	}
	return p
}

// run plays, and says what was wrong.
func (p *play) run(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	w := p.world
	w.mu.Lock()
	w.plays[p.seed] = p
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.plays, p.seed)
		w.mu.Unlock()
	}()
	if p.agent, err = w.startAgent(ctx, p.machine, p.quirks); err != nil {
		return fmt.Errorf("the agent: %w", err)
	}
	defer func() { err = errors.Join(err, p.agent.Close()) }()
	if err := w.aws.SetFaults(awsemu.Scope{Instance: p.machine}, p.faults); err != nil {
		return err
	}
	err = p.open(ctx)
	if err == nil {
		over, done := make(chan struct{}), sync.WaitGroup{}
		done.Go(func() { p.trouble(ctx, over) })
		err = p.wait(ctx)
		close(over)
		done.Wait() // before the end, so that no connection is cut behind its back
	} else if p.mortal() {
		err = nil
	}
	return errors.Join(err, p.end(ctx))
}

// wait waits until all has arrived or the client has failed.
func (p *play) wait(ctx context.Context) error {
	for {
		p.mu.Lock()
		settled := p.failed != nil
		if !settled {
			settled = true
			for _, f := range append(p.up, p.down...) {
				settled = settled && f.complete()
			}
			if p.kind == command { // the exit code comes last
				settled = settled && p.down[0].err != nil
			}
		}
		changed := p.changed
		p.mu.Unlock()
		if settled {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return errors.New("the transfer did not end")
		}
	}
}

// with changes something that wait looks at.
func (p *play) with(do func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	do()
	close(p.changed)
	p.changed = make(chan struct{})
}

// end closes, and judges.
func (p *play) end(ctx context.Context) error {
	var closeErr error
	for _, c := range p.closers {
		closeErr = errors.Join(closeErr, c())
	}
	p.tasks.Wait()
	var wrong []error
	if p.session != "" {
		closed := func(i awsemu.SessionInfo) bool {
			return i.Status == awsemu.StatusTerminated || i.Status == awsemu.StatusFailed
		}
		if err := p.world.aws.WaitSession(ctx, p.session, closed); err != nil {
			wrong = append(wrong, fmt.Errorf("the session was left open: %w", err))
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	mortal := p.mortal()
	// The agent waits two seconds for acknowledgements and then leaves, with what a lost connection has kept from us (SPEC.md §8).
	mayBeCut := mortal || (p.byAgent || p.kind == command) && p.failed != nil || p.withoutExitCode()
	// The agent acknowledges what it has delivered: a destination that closes in between takes the last acknowledgement with it (SPEC.md §4.1).
	lastAckLost := p.byAgent && errors.Is(closeErr, ssmproto.ErrUndelivered)
	if closeErr != nil && !mortal && !lastAckLost {
		wrong = append(wrong, fmt.Errorf("close: %w", closeErr))
	}
	for _, f := range append(p.up, p.down...) {
		switch {
		case bytes.Equal(f.got, f.want):
		case !mayBeCut:
			wrong = append(wrong, fmt.Errorf("%s: %d of %d bytes, in order: %v; the client: %w", f.name, len(f.got), len(f.want), bytes.HasPrefix(f.want, f.got), p.failed))
		case !bytes.HasPrefix(f.want, f.got):
			wrong = append(wrong, fmt.Errorf("%s: what arrived is not its beginning", f.name))
		case errors.Is(f.err, io.EOF) && !p.withoutExitCode():
			wrong = append(wrong, fmt.Errorf("%s: cut without an error", f.name))
		}
	}
	if p.exitCode != nil && !mayBeCut {
		if code, _ := p.exitCode(); code != 7 {
			wrong = append(wrong, fmt.Errorf("exit code %d", code))
		}
	}
	return errors.Join(wrong...)
}

// withoutExitCode says that the last message of a command has not come: what ends then has no other sign of being cut.
func (p *play) withoutExitCode() bool {
	if p.exitCode == nil {
		return false
	}
	_, known := p.exitCode()
	return !known
}

// destination is the server behind the port.
func (p *play) destination(c net.Conn, stream int) {
	up, down := p.up[stream], p.down[stream]
	p.with(func() { up.got = append(up.got, up.want[:headSize]...) })
	var writing sync.WaitGroup
	writing.Go(func() { _, _ = c.Write(down.want[len(greeting):]) })
	defer writing.Wait()
	buffer := make([]byte, 8<<10)
	for {
		n, err := c.Read(buffer)
		whole := false
		p.with(func() {
			up.got = append(up.got, buffer[:n]...)
			whole = up.complete()
		})
		if err != nil || whole && p.byAgent {
			return
		}
	}
}

// read is a reader of the client, which reads on behind what it expects.
func (p *play) read(from io.Reader, f *flow) {
	buffer := make([]byte, 4<<10)
	for {
		p.reading.Lock()
		p.reading.Unlock() //nolint:staticcheck // waits while the reader is to pause
		n, err := from.Read(buffer)
		p.with(func() {
			f.got = append(f.got, buffer[:n]...)
			if err != nil {
				f.err = err
			}
			if err != nil && p.failed == nil && (!f.complete() || !errors.Is(err, io.EOF)) { // the other direction may be waiting
				p.failed = err
			}
		})
		if err != nil {
			return
		}
		time.Sleep(p.slowReader)
	}
}

func (p *play) write(to io.Writer, f *flow) {
	if _, err := to.Write(f.want); err != nil {
		p.with(func() {
			if p.failed == nil {
				p.failed = err
			}
		})
	}
}

// script writes the program of a command session, and gives the words that run it.
func (p *play) script() (string, error) {
	base := filepath.Join(p.world.dir, fmt.Sprint(p.seed))
	files := map[string][]byte{
		".out": p.down[0].want, ".err": p.down[1].want, ".sh": fmt.Appendf(nil, "cat %[1]s.out; cat %[1]s.err >&2; exit 7\n", base),
	}
	for name, content := range files {
		if err := os.WriteFile(base+name, content, 0o600); err != nil {
			return "", err
		}
	}
	p.closers = append(p.closers, func() error {
		return errors.Join(os.Remove(base+".out"), os.Remove(base+".err"), os.Remove(base+".sh"))
	})
	return "sh " + base + ".sh", nil
}

func (p *play) options() *ssmproto.Options {
	return &ssmproto.Options{
		MaxPayload: p.payload, WaitForPeer: p.kind == basicPort, ResumeFor: time.Minute, DrainTimeout: 30 * time.Second,
		PeerCheck: time.Second, PeerTimeout: p.peerTimeout,
	}
}
