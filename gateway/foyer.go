package gateway

import (
	"bufio"
	"context"
	"io"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// foyer is a session on a connection that names no machine, before it is clear what becomes of it: a built-in command answers it, or a machine is chosen and
// it becomes a session there. Until then what the client asks for beside the program is kept, so that it can be asked of the machine.
type foyer struct {
	stream ssh.Channel
	typed  *bufio.Reader // the client's input: what was typed ahead of a choice belongs to the machine
	mayPTY bool

	asked    chan bridge.Program // what the client wants to run; at most one
	closed   chan struct{}       // closed when the client has closed the channel
	left     chan struct{}       // closed when we are done with it
	leave    func()              // closes left and the channel
	resizes  chan struct{}       // holds a token when the window has another size
	onward   chan *ssh.Request
	mu       sync.Mutex
	seen     int
	program  bool             // shell or exec has come
	terminal *terminalRequest // nil: none was asked for
	beside   []*ssh.Request   // env, agent and X11, as they came
	moved    bool             // requests go onward
}

// terminalRequest is the payload of pty-req (RFC 4254 §6.2).
type terminalRequest struct {
	Term          string
	Columns, Rows uint32 // in characters
	Width, Height uint32 // in pixels
	Modes         string
}

// windowChange is the payload of window-change (RFC 4254 §6.7).
type windowChange struct{ Columns, Rows, Width, Height uint32 }

func newFoyer(stream ssh.Channel, mayPTY bool) *foyer {
	f := &foyer{
		stream: stream, typed: bufio.NewReader(stream), mayPTY: mayPTY,
		asked: make(chan bridge.Program, 1), closed: make(chan struct{}), left: make(chan struct{}), resizes: make(chan struct{}, 1),
		onward: make(chan *ssh.Request, foyerRequests+2), // all that is kept, pty-req and shell
	}
	f.leave = sync.OnceFunc(func() {
		close(f.left)
		_ = stream.Close()
	})
	return f
}

// foyerRequests bounds what a client may ask for before a program runs: pty-req, env and such.
const foyerRequests = 64

// serve takes the client's requests until it has closed the channel.
func (f *foyer) serve(reqs <-chan *ssh.Request) {
	defer close(f.closed)
	defer close(f.onward)
	for req := range reqs {
		if f.keep(req) {
			continue
		}
		select {
		case f.onward <- req:
		case <-f.left:
			_ = req.Reply(false, nil)
		}
	}
}

// keep answers a request here; it says no when there is a machine to answer it.
func (f *foyer) keep(req *ssh.Request) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.moved {
		return false
	}
	if req.Type == "window-change" {
		_ = req.Reply(f.resize(req.Payload), nil)
		return true
	}
	if f.seen++; f.seen > foyerRequests {
		_ = f.stream.Close()
		return true
	}
	_ = req.Reply(f.take(req), nil)
	return true
}

// take notes what a session asks for and says whether it may. Policy has no say yet: it is asked again when there is a machine.
func (f *foyer) take(req *ssh.Request) bool {
	switch req.Type {
	case "shell", "exec":
		run, ok := bridge.ReadProgram(req)
		if !ok || f.program {
			return false
		}
		f.program = true
		f.asked <- run
		return true
	case "pty-req":
		var terminal terminalRequest
		if err := ssh.Unmarshal(req.Payload, &terminal); err != nil || !f.mayPTY || f.program {
			return false
		}
		f.terminal = &terminal
		return true
	case "env", "auth-agent-req@openssh.com", "x11-req":
		f.beside = append(f.beside, &ssh.Request{Type: req.Type, Payload: req.Payload})
		return true
	}
	return false
}

// resize notes the size of the window.
func (f *foyer) resize(payload []byte) bool {
	var now windowChange
	if err := ssh.Unmarshal(payload, &now); err != nil || f.terminal == nil {
		return false
	}
	f.terminal.Columns, f.terminal.Rows, f.terminal.Width, f.terminal.Height = now.Columns, now.Rows, now.Width, now.Height
	select {
	case f.resizes <- struct{}{}:
	default: // one is waiting already, and will find this size
	}
	return true
}

// await gives what the client wants to run; ok is false when it asks for nothing before it leaves or ctx ends.
func (f *foyer) await(ctx context.Context) (run bridge.Program, ok bool) {
	select {
	case run = <-f.asked:
		return run, true
	case <-f.closed:
	case <-ctx.Done():
	}
	return bridge.Program{}, false
}

// size is the terminal's, in characters; ok is false where there is no terminal.
func (f *foyer) size() (columns, rows int, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.terminal == nil {
		return 0, 0, false
	}
	const most = 4096
	return int(min(f.terminal.Columns, most)), int(min(f.terminal.Rows, most)), true
}

// exit reports how the session ended and ends it.
func (f *foyer) exit(status uint32) {
	_, _ = f.stream.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
	f.leave()
}

// move turns the session into one for a machine: what was asked for here is asked again there, with the window as large as it is now, and a shell. The
// requests want no answer, because the client has had one.
func (f *foyer) move() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.moved {
		return
	}
	f.moved = true
	if f.terminal != nil {
		f.onward <- &ssh.Request{Type: "pty-req", Payload: ssh.Marshal(f.terminal)}
	}
	for _, req := range f.beside {
		f.onward <- req
	}
	f.onward <- &ssh.Request{Type: "shell"}
}

// leg is the foyer as the connection of a client who opens this one session: what a bridge joins with a machine. outer carries what the machine opens towards the
// client, such as its agent.
func (f *foyer) leg(outer ssh.Conn) bridge.Leg {
	f.move()
	chans, reqs := make(chan ssh.NewChannel, 1), make(chan *ssh.Request)
	chans <- foyerChannel{f}
	close(chans)
	close(reqs)
	return bridge.Leg{Conn: foyerConn{outer, f}, Chans: chans, Reqs: reqs}
}

// foyerConn ends with the session, and the connection around it does not.
type foyerConn struct {
	ssh.Conn
	foyer *foyer
}

// Close ends the session.
func (c foyerConn) Close() error {
	c.foyer.leave()
	return nil
}

// Wait returns when the session has ended, which is always in good order: what went wrong with the outer connection is told there.
func (c foyerConn) Wait() error {
	select {
	case <-c.foyer.closed:
	case <-c.foyer.left:
	}
	return io.EOF
}

// foyerChannel is the session, which has been accepted long ago, as a channel to be opened.
type foyerChannel struct{ foyer *foyer }

// Accept gives the session.
func (n foyerChannel) Accept() (ssh.Channel, <-chan *ssh.Request, error) {
	return foyerStream{n.foyer.stream, n.foyer.typed}, n.foyer.onward, nil
}

// Reject ends the session in words.
func (n foyerChannel) Reject(_ ssh.RejectionReason, message string) error {
	_, err := io.WriteString(n.foyer.stream.Stderr(), terminalLines(message))
	n.foyer.exit(bridge.RefusedStatus)
	return err
}

// ChannelType is that of a session.
func (n foyerChannel) ChannelType() string { return "session" }

// ExtraData is nothing, as for every session.
func (n foyerChannel) ExtraData() []byte { return nil }

// foyerStream reads what was typed ahead first.
type foyerStream struct {
	ssh.Channel
	typed *bufio.Reader
}

// Read reads the client's input.
func (s foyerStream) Read(b []byte) (int, error) { return s.typed.Read(b) }
