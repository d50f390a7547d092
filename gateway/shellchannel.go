package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

const (
	// endOfInput is what a terminal takes for the end of input (termios VEOF).
	endOfInput = 0x04
	// commandGoodbye is how long a command may take to end when nobody wants it any more.
	commandGoodbye = 5 * time.Second
)

// shellChannel is one session on a machine without sshd, as its sshd would have opened it: what is asked for before the program is noted, the program becomes a
// Session Manager session, and the end of that is the program's exit status.
type shellChannel struct {
	conn   *shellConn
	ctx    context.Context // ends when either side has closed
	cancel context.CancelFunc
	reqs   chan *ssh.Request   // to the client: how the program ended
	asked  chan bridge.Program // at most one

	out, errs *io.PipeReader // what the client reads
	toOut     *io.PipeWriter
	toErrs    *io.PipeWriter

	begun   chan struct{} // closed when session is set
	session ShellSession

	resizing sync.Mutex
	size     ssmproto.Size // that the session has been told, guarded by resizing

	mu       sync.Mutex
	terminal *terminalRequest // nil: none was asked for
	running  bool
	deaf     bool   // the program takes no input
	told     bool   // that its input is dropped
	killed   string // by which signal the client ended the program
}

func newShellChannel(c *shellConn) *shellChannel {
	s := &shellChannel{conn: c, reqs: make(chan *ssh.Request, 1), asked: make(chan bridge.Program, 1), begun: make(chan struct{})}
	s.ctx, s.cancel = context.WithCancel(c.ctx)
	s.out, s.toOut = io.Pipe()
	s.errs, s.toErrs = io.Pipe()
	return s
}

// serve is the life of the session: it ends when the program has, or nobody wants it any more.
func (s *shellChannel) serve() {
	defer s.hangUp() // last: the client need not wait for it
	defer close(s.reqs)
	defer s.cancel()
	defer func() { _ = s.toErrs.Close() }()
	defer func() { _ = s.toOut.Close() }()
	stop := context.AfterFunc(s.ctx, func() { // nobody reads any more
		_ = s.out.CloseWithError(net.ErrClosed)
		_ = s.errs.CloseWithError(net.ErrClosed)
	})
	defer stop()
	var run bridge.Program
	select {
	case run = <-s.asked:
	case <-s.ctx.Done():
		return
	}
	status, err := s.play(run)
	switch signal := s.killedBy(); {
	case s.ctx.Err() != nil:
		return
	case signal != "":
		s.reqs <- &ssh.Request{Type: "exit-signal", Payload: ssh.Marshal(exitSignal{Signal: signal})}
		return
	case err != nil:
		s.tell(s.conn.visit.text(err))
	}
	s.reqs <- &ssh.Request{Type: "exit-status", Payload: ssh.Marshal(struct{ Status uint32 }{status})}
}

// exitSignal is the payload of exit-signal (RFC 4254 §6.10).
type exitSignal struct {
	Signal          string
	CoreDumped      bool
	Error, Language string
}

// hangUp ends the Session Manager session, if there is one.
func (s *shellChannel) hangUp() {
	if closedAlready(s.begun) {
		_ = s.session.Close()
	}
}

// play runs a program to its end. Its output has been taken when play returns.
func (s *shellChannel) play(run bridge.Program) (status uint32, err error) {
	r := s.conn.visit.current()
	kind := "this is a Session Manager shell"
	if run.Request == "exec" {
		kind = "the command runs through Session Manager"
	}
	s.tell(fmt.Sprintf("no sshd on %s: %s; files, forwarding, agent and X11 need one", printable(r.named, wordLimit), kind))
	marked := &markedOutput{to: s.toOut}
	command := run.Command
	if run.Request == "exec" {
		command = marked.wrap(command, s.onTerminal(), r.target)
	}
	session, err := s.open(r, run, command)
	if err != nil {
		return bridge.RefusedStatus, err
	}
	dismissed := make(chan struct{})
	stop := context.AfterFunc(s.ctx, func() {
		defer close(dismissed)
		s.dismiss(session)
	})
	defer func() {
		if !stop() {
			<-dismissed
		}
	}()
	s.session = session
	s.resize() // before there can be input
	close(s.begun)
	s.resize() // the window may have changed while nobody was there to tell
	if err = s.carry(session, marked); err != nil {
		return bridge.RefusedStatus, err
	}
	return s.status(session, run, marked)
}

// onTerminal reports whether the client asked for a terminal.
func (s *shellChannel) onTerminal() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.terminal != nil
}

// open begins the Session Manager session of a program.
func (s *shellChannel) open(r route, run bridge.Program, command string) (ShellSession, error) {
	v, cfg := s.conn.visit, s.conn.srv.cfg
	ctx, cancel := context.WithTimeoutCause(s.ctx, cfg.Limits.ConnectTimeout,
		&authz.Refusal{Reason: authz.ReasonTimeout, Subject: r.named, Action: "the Session Manager session to " + r.named})
	defer cancel()
	e := v.event(EventUpstreamOpened)
	e.Request = run.Request
	grant, err := s.conn.starter.StartShell(ctx, r.role, r.target, command, s.onTerminal(), v.reason())
	e.SessionID = grant.SessionID
	var session ShellSession
	if err == nil {
		session, err = cfg.DialShell(ctx, grant)
	}
	if err != nil {
		err = shellError(ctx, r, err)
		e.Event = EventUpstreamFailed
		withCause(&e, err)
	}
	s.conn.srv.record(e)
	return session, err
}

// shellError says in our words why a Session Manager session could not be opened, or did not last.
func shellError(ctx context.Context, r route, err error) error {
	var refusal *authz.Refusal
	var ended *ssmproto.SessionEndedError
	switch {
	case errors.As(err, &refusal):
		return fmt.Errorf("shell on %s: %w", r.target.ID, err)
	case ctx.Err() != nil:
		return fmt.Errorf("shell on %s: %w (%w)", r.target.ID, context.Cause(ctx), err)
	case errors.As(err, &ended):
		return &authz.Refusal{Reason: authz.ReasonSessionEnded, Subject: r.named, Detail: ended.Output, Cause: err}
	case errors.Is(err, ssmproto.ErrHandshakeTimeout):
		return &authz.Refusal{Reason: authz.ReasonTimeout, Subject: r.named, Action: "the SSM agent of " + r.named, Cause: err}
	case errors.Is(err, ssmproto.ErrPeerSilent):
		return &authz.Refusal{Reason: authz.ReasonTimeout, Subject: r.named, Action: "a sign of life of " + r.named, Cause: err}
	}
	return &authz.Refusal{Reason: authz.ReasonSessionEnded, Subject: r.named, Detail: "the connection to the machine was lost", Cause: err}
}

// carry copies what the session says until it ends.
func (s *shellChannel) carry(session ShellSession, marked *markedOutput) error {
	copied := make(chan struct{})
	go func() {
		defer close(copied)
		defer logPanic(s.conn.visit.log, "stderr of a Session Manager shell")
		_, _ = io.Copy(s.toErrs, session.Stderr())
	}()
	_, err := io.Copy(marked, session)
	if err != nil {
		_ = session.CloseNow() // nobody reads: the other copy has to end too
	}
	<-copied
	if err = errors.Join(err, marked.flush()); err == nil {
		return nil
	}
	return shellError(s.ctx, s.conn.visit.current(), err)
}

// status is how the program ended, as well as the protocol tells: of a shell nothing, of a command what its document or the mark behind its output says.
func (s *shellChannel) status(session ShellSession, run bridge.Program, marked *markedOutput) (uint32, error) {
	if code, known := session.ExitCode(); known {
		return uint32(code), nil
	}
	if run.Request == "shell" || marked.mark == nil {
		return 0, nil
	}
	if code, known := marked.mark.Code(); known {
		return uint32(code), nil
	}
	return bridge.RefusedStatus, &authz.Refusal{
		Reason: authz.ReasonSessionEnded, Subject: s.conn.visit.current().named, Detail: "before the command told its exit status",
	}
}

// dismiss ends a session that nobody wants any more. A command is interrupted first: it has no terminal whose end would end it.
func (s *shellChannel) dismiss(session ShellSession) {
	if s.isDeaf() {
		limit := time.AfterFunc(commandGoodbye, func() { _ = session.CloseNow() })
		defer limit.Stop()
		if session.Signal(ssmproto.Interrupt) == nil {
			_ = session.Close()
			return
		}
	}
	_ = session.CloseNow()
}

func (s *shellChannel) killedBy() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.killed
}

func (s *shellChannel) isDeaf() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.deaf
}

// tell writes a line to the session's stderr.
func (s *shellChannel) tell(line string) { _, _ = io.WriteString(s.toErrs, terminalLines(line)) }

// Read gives the program's output.
func (s *shellChannel) Read(p []byte) (int, error) { return s.out.Read(p) }

// Stderr gives what the program and the gateway say beside it. It takes nothing.
func (s *shellChannel) Stderr() io.ReadWriter { return shellStderr{s.errs} }

type shellStderr struct{ io.Reader }

// Write refuses: the client of a session writes to its input.
func (shellStderr) Write([]byte) (int, error) { return 0, net.ErrClosed }

// Write types into the program, once it runs. A command without a terminal takes no input: that is told once.
func (s *shellChannel) Write(p []byte) (int, error) {
	if !s.awaitProgram() { // no input comes before the program has been asked for
		return 0, net.ErrClosed
	}
	s.mu.Lock()
	deaf, first := s.deaf, !s.told
	s.told = s.told || deaf
	s.mu.Unlock()
	if !deaf {
		return s.session.Write(p)
	}
	if first {
		s.tell("a command through Session Manager takes no input: what is sent to it is dropped")
	}
	return len(p), nil
}

// CloseWrite types the end of input.
func (s *shellChannel) CloseWrite() error {
	if !s.awaitProgram() {
		return net.ErrClosed
	}
	if s.isDeaf() {
		return nil
	}
	_, err := s.session.Write([]byte{endOfInput})
	return err
}

// Close ends the program, if it still runs. It does not wait for that.
func (s *shellChannel) Close() error {
	s.cancel()
	return nil
}

// awaitProgram waits for a program that has been asked for to run; it says no when none has, or it never will.
func (s *shellChannel) awaitProgram() bool {
	s.mu.Lock()
	running := s.running
	s.mu.Unlock()
	if !running {
		return false
	}
	select {
	case <-s.begun:
		return true
	case <-s.ctx.Done():
		return false
	}
}
