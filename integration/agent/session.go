package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// session is one session, from interactive_shell to agent_task_complete.
//
//	open data channel → Connected → handshake → plugin reaches its destination → plugin serves → acknowledgements, Terminating → close → completion
type session struct {
	agent   *Agent
	start   sessionStart
	channel *channel
	cancel  context.CancelCauseFunc

	client     version       // after the handshake; zero without one
	tookShake  time.Duration // how long the handshake took
	clientText string
}

// plugin is what a session does. connect reaches the destination, serve works until it or ctx ends, and input is called by the reader in between.
type plugin interface {
	connect(ctx context.Context) error
	input(ctx context.Context, m ssmproto.Message) error
	serve(ctx context.Context) error
}

// Why a session ends, besides its plugin being done.
var (
	errTerminateFlag = errors.New("the client sent the TerminateSession flag")
	errClosed        = errors.New("the service closed the session")
)

// wording is an error in the real agent's words, which reach the user as Output of channel_closed and which clients may look for.
type wording string

func (w wording) Error() string { return string(w) }

const (
	errCrashed wording = "document process failed unexpectedly: ipc messaging received timeout signal , " +
		"check [ssm-document-worker]/[ssm-session-worker] log for crash reason" // SPEC.md §7.4
	errHandshakeTimeout wording = "Encountered error while initiating handshake. Handshake timed out. " +
		"Please ensure that you have the latest version of the session manager plugin." // SPEC.md §5.2
)

// agentSessionState is SPEC.md §3.2.
type agentSessionState struct {
	SchemaVersion int
	SessionState  string
	SessionID     string `json:"SessionId"`
}

// begin starts a session that the control channel asks for. A second one with the same id is ignored (SPEC.md §13.3).
func (a *Agent) begin(ctx context.Context, payload []byte) {
	start, parseErr := parseStart(payload)
	if start.id == "" {
		a.log.Debug("session dropped", "err", parseErr)
		return
	}
	s := &session{agent: a, start: start}
	sessionCtx, cancel := context.WithCancelCause(ctx)
	s.cancel = cancel
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.closed || a.sessions[start.id] != nil || len(a.sessions) >= maxSessions {
		cancel(nil)
		a.log.Debug("session dropped", "session", start.id)
		return
	}
	a.sessions[start.id] = s
	a.wait.Go(func() {
		defer cancel(nil)
		err := parseErr
		if err == nil {
			err = s.run(ctx, sessionCtx)
		}
		a.log.Debug("session ended", "session", start.id, "err", err)
		a.forget(start.id)
		if ctx.Err() == nil {
			a.completeTask(ctx, start.id, err)
		}
	})
}

func (a *Agent) forget(id string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	delete(a.sessions, id)
}

// end cancels a session on behalf of the service.
func (a *Agent) end(id string) {
	a.mu.Lock()
	s := a.sessions[id]
	a.mu.Unlock()
	if s != nil {
		s.cancel(errClosed)
	}
}

// run returns the error to report; the end of a session that was told to end is a success (SPEC.md §7.2). ctx is the agent's, which keeps the channel open
// after the session's own context has ended, so that what is on its way arrives.
func (s *session) run(ctx, sessionCtx context.Context) error {
	var err error
	s.channel, err = s.agent.openChannel(ctx, s.start.id, func() { s.cancel(errClosed) })
	if err != nil {
		return err
	}
	defer s.channel.close()
	s.reportState("Connected")
	err = s.serve(sessionCtx)
	if errors.Is(err, errCrashed) {
		s.channel.close() // the worker process is gone, and its sockets with it
		if !s.agent.cfg.Quirks.RefuseAtOnce {
			sleep(sessionCtx, s.agent.cfg.Quirks.crashNoticed())
		}
		return errCrashed
	}
	if ctx.Err() != nil { // the machine has been switched off: no agent is there to say so
		return nil
	}
	if sessionCtx.Err() != nil {
		err = nil
	}
	if errors.Is(context.Cause(sessionCtx), errTerminateFlag) {
		return nil
	}
	s.channel.awaitDrained(ctx)
	s.reportState("Terminating")
	s.channel.awaitDrained(ctx)
	return err
}

func (s *session) reportState(state string) {
	s.channel.sendPlain(ssmproto.AgentSessionState, agentSessionState{1, state, s.start.id})
}

// serve is the session proper.
func (s *session) serve(ctx context.Context) error {
	shake := (s.start.kind == typePort || s.start.kind == typeNonInteractive || s.encrypts()) && !s.agent.cfg.Quirks.NoHandshake
	if shake {
		client, err := s.handshake(ctx)
		if err != nil {
			return err
		}
		s.client = client
	}
	p, err := s.newPlugin()
	if err != nil {
		return err
	}
	first := s.agent.cfg.Quirks.DialFirst
	if first {
		if err := p.connect(ctx); err != nil {
			return err
		}
	}
	if shake {
		if err := s.completeHandshake(s.adviceFor(p)); err != nil {
			return err
		}
	}
	if !first {
		if err := p.connect(ctx); err != nil {
			return err
		}
	}
	s.channel.handleWith(func(m ssmproto.Message) error { return p.input(ctx, m) })
	return p.serve(ctx)
}

// newPlugin decides by the session's type, and for ports by what both sides can do (SPEC.md §5.4).
func (s *session) newPlugin() (plugin, error) {
	switch s.start.kind {
	case typePort:
		return s.newPortPlugin()
	case typeShell, typeInteractive:
		return s.newShell()
	case typeNonInteractive:
		return s.newCommand()
	default:
		return nil, fmt.Errorf("plugin with name %s not found", s.start.kind)
	}
}

// adviceFor is what HandshakeComplete tells the user: a client that cannot separate a command's streams is told so (SPEC.md §5.3).
func (s *session) adviceFor(p plugin) string {
	if s.encrypts() {
		return encryptedNotice
	}
	if c, ok := p.(*command); ok && c.separate && !s.client.newerThan(parseVersion(oldSeparatedVersion)) {
		return separatedAdvice
	}
	return ""
}

// terminate is the client's flag: acknowledged first, then the session ends.
func (s *session) terminate() {
	s.channel.afterAck = func() { s.cancel(errTerminateFlag) }
}
