package awsemu

import (
	"context"
	"encoding/json"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// agentLink is the control channel of one machine's agent.
type agentLink struct {
	machine string
	version string
	since   time.Time // of the real clock
	ws      *websocket.Conn
	mu      sync.Mutex // one writer at a time
}

func (a *agentLink) send(frame []byte) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.ws.SetWriteDeadline(time.Now().Add(writeTimeout)); err != nil {
		return err
	}
	return a.ws.WriteMessage(websocket.BinaryMessage, frame)
}

// close breaks the connection; its reader ends.
func (a *agentLink) close() { _ = a.ws.NetConn().Close() }

// serveControlChannel holds the control channel of an agent until it ends. A newer one of the same machine replaces it.
func (s *Server) serveControlChannel(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		http.Error(w, "closing", http.StatusServiceUnavailable)
		return
	}
	defer s.wg.Done()
	ws, t, ok := s.openChannel(w, r)
	if !ok {
		return
	}
	a := &agentLink{machine: r.PathValue("id"), version: t.version, since: time.Now(), ws: ws}
	defer s.release(ws)
	if t.machine == "" || t.machine != a.machine {
		return
	}
	s.mu.Lock()
	old, closed := s.agents[a.machine], s.closed
	if !closed {
		s.agents[a.machine] = a
	}
	s.mu.Unlock()
	if closed {
		return
	}
	if old != nil {
		old.close()
	}
	s.announce()
	settled := time.AfterFunc(s.cfg.AgentSettle, s.announce)
	defer settled.Stop()
	err := s.listenTo(a)
	s.mu.Lock()
	if s.agents[a.machine] == a {
		delete(s.agents, a.machine)
	}
	s.mu.Unlock()
	s.announce()
	s.log.Debug("control channel ended", "machine", a.machine, "error", err)
}

// taskComplete is what the agent says of a session that has ended (SPEC.md §13.4).
type taskComplete struct {
	TaskID          string `json:"TaskId"`
	FinalTaskStatus string
	Output          string
}

func (s *Server) listenTo(a *agentLink) error {
	for {
		_, frame, err := a.ws.ReadMessage()
		if err != nil {
			return err
		}
		m, err := ssmproto.Parse(frame)
		if err != nil {
			s.log.Debug("unreadable control message", "machine", a.machine, "error", err)
			continue
		}
		if m.Type != ssmproto.AgentTaskComplete {
			s.log.Debug("control message ignored", "machine", a.machine, "type", m.Type)
			continue
		}
		if err := s.completeTask(a, m); err != nil {
			return err
		}
	}
}

// completeTask acknowledges and closes the client's side. Failures come twice and are acknowledged twice.
func (s *Server) completeTask(a *agentLink, m ssmproto.Message) error {
	var done taskComplete
	if err := json.Unmarshal(m.Payload, &done); err != nil {
		s.log.Debug("unreadable agent_task_complete", "machine", a.machine, "error", err)
		return nil
	}
	ack := mustJSON(struct {
		SchemaVersion int
		MessageID     string `json:"MessageId"`
		TaskID        string `json:"TaskId"`
		Topic         string
	}{1, m.ID.String(), done.TaskID, string(ssmproto.AgentTaskComplete)})
	if err := a.send(serviceFrame(ssmproto.AgentTaskAcknowledge, ack)); err != nil {
		return err
	}
	ses := s.session(done.TaskID)
	if ses == nil || ses.target.id != a.machine {
		return nil
	}
	switch done.FinalTaskStatus {
	case "Success", "Cancelled": //nolint:misspell // the agent spells it so
		ses.finish(StatusTerminated, "", true)
	default:
		ses.finish(StatusFailed, done.Output, true)
	}
	return nil
}

// agent gives the control channel of a machine whose agent is ready for sessions.
func (s *Server) agent(machine string) *agentLink {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.agents[machine]
	if a == nil || time.Since(a.since) < s.cfg.AgentSettle {
		return nil
	}
	return a
}

// tellAgent sends a control message if there is an agent to hear it.
func (s *Server) tellAgent(machine string, frame []byte) {
	s.mu.Lock()
	a := s.agents[machine]
	s.mu.Unlock()
	if a == nil {
		return
	}
	if err := a.send(frame); err != nil {
		s.log.Debug("control message not sent", "machine", machine, "error", err)
	}
}

// AgentConnected reports whether the machine's agent is ready for sessions.
func (s *Server) AgentConnected(machine string) bool { return s.agent(machine) != nil }

// WaitAgent waits until AgentConnected, or until ctx ends.
func (s *Server) WaitAgent(ctx context.Context, machine string) error {
	return s.await(ctx, func() bool { return s.AgentConnected(machine) })
}
