package awsemu

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/gorilla/websocket"
)

// handler lays out all paths: the message gateway by path, the emulator's own under /_emulator/, everything else is an API call.
func (s *Server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /v1/control-channel/{id}", s.createControlChannel)
	mux.HandleFunc("POST /v1/data-channel/{id}", s.createDataChannel)
	mux.HandleFunc("GET /v1/control-channel/{id}", s.serveControlChannel)
	mux.HandleFunc("GET /v1/data-channel/{id}", s.serveDataChannel)
	mux.HandleFunc("GET /_emulator/keys", s.controlKeys)
	mux.HandleFunc("GET /_emulator/calls", func(w http.ResponseWriter, _ *http.Request) { writeControl(w, s.Calls()) })
	mux.HandleFunc("GET /_emulator/sessions", func(w http.ResponseWriter, _ *http.Request) { writeControl(w, s.Sessions()) })
	mux.HandleFunc("POST /_emulator/faults", s.controlFaults)
	mux.HandleFunc("POST /_emulator/cut", s.controlCut)
	mux.HandleFunc("/", s.serveAPI)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set(HeaderEmulator, "yes")
		if !local(r) {
			http.Error(w, "the emulator answers to loopback names only", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

// local refuses requests for other host names, with which a web page could reach the emulator through a DNS name of its own.
func local(r *http.Request) bool {
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	addr, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return err == nil && addr.IsLoopback() || host == "localhost" || strings.HasSuffix(host, ".localhost") || host == ""
}

// writeControl answers in JSON. The one thing that can fail is the client's connection.
func writeControl(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(v)
}

// controlKeys is what sshd's AuthorizedKeysCommand asks: authorized_keys lines, none when nobody may come in.
// It answers HTTP/1.0 too, so that a shell without curl can ask.
func (s *Server) controlKeys(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	for _, line := range s.PushedKeys(r.FormValue("instance"), r.FormValue("user")) {
		_, _ = io.WriteString(w, line+"\n") // a client that has gone needs no keys
	}
}

// controlFaults takes {"scope": Scope, "faults": Faults}; unknown fields are refused, because a fault that is misspelled tests nothing.
func (s *Server) controlFaults(w http.ResponseWriter, r *http.Request) {
	var ask struct {
		Scope  Scope  `json:"scope"`
		Faults Faults `json:"faults"`
	}
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxRequestBody))
	d.DisallowUnknownFields()
	err := d.Decode(&ask)
	if err == nil {
		err = s.SetFaults(ask.Scope, ask.Faults)
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// controlCut is Cut, or with reason=bye the goodbye of Bye: POST /_emulator/cut?session=…&side=client.
func (s *Server) controlCut(w http.ResponseWriter, r *http.Request) {
	var err error
	if r.FormValue("reason") == "bye" {
		err = s.Bye(r.FormValue("session"))
	} else {
		err = s.Cut(r.FormValue("session"), Side(r.FormValue("side")))
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

var errNoChannel = errors.New("awsemu: no such session, or that side of it is not connected")

// socket gives the WebSocket of one side of a session.
func (s *Server) socket(sessionID string, side Side) (*channel, error) {
	ses := s.session(sessionID)
	if ses == nil {
		return nil, errNoChannel
	}
	ses.mu.Lock()
	defer ses.mu.Unlock()
	c := ses.client
	if side == SideAgent {
		c = ses.agent
	}
	if c == nil {
		return nil, errNoChannel
	}
	return c, nil
}

// Cut breaks the WebSocket of one side of a session now, without close frame, as a network does that fails.
func (s *Server) Cut(sessionID string, side Side) error {
	c, err := s.socket(sessionID, side)
	if err == nil {
		c.abort()
	}
	return err
}

// Bye closes the client's WebSocket as AWS does every hour.
func (s *Server) Bye(sessionID string) error {
	c, err := s.socket(sessionID, SideClient)
	if err == nil {
		c.close(websocket.CloseNormalClosure, "Bye")
	}
	return err
}

// SessionInfo is a session as the emulator sees it, with what its lanes have carried.
type SessionInfo struct {
	ID           string    `json:"id"`
	Target       string    `json:"target"`
	Document     string    `json:"document"`
	Owner        string    `json:"owner"`
	Status       Status    `json:"status"`
	Output       string    `json:"output,omitempty"` // of channel_closed
	Start        time.Time `json:"start"`
	ClientOnline bool      `json:"clientOnline"`
	AgentOnline  bool      `json:"agentOnline"`
	ToAgent      LaneInfo  `json:"toAgent"`
	ToClient     LaneInfo  `json:"toClient"`
}

// Over says that the session has ended, well or not: it holds nothing at AWS any more.
func (i *SessionInfo) Over() bool { return i.Status.over() }

// LaneInfo counts what happened to the messages of one direction of a session.
type LaneInfo struct {
	Messages   int64 `json:"messages"` // delivered to the receiver's WebSocket, with copies and the service's own
	Bytes      int64 `json:"bytes"`    // of their frames
	Lost       int64 `json:"lost"`     // by Drop, DropAcks and MaxClientPayload
	Overflowed int64 `json:"overflowed"`
	Duplicated int64 `json:"duplicated"`
	Reordered  int64 `json:"reordered"`
	Greased    int64 `json:"greased"`
}

// Sessions gives all sessions that are open or still in the history, oldest first.
func (s *Server) Sessions() []SessionInfo {
	s.mu.Lock()
	all := make([]*session, 0, len(s.sessions))
	for _, ses := range s.sessions {
		all = append(all, ses)
	}
	s.mu.Unlock()
	sortSessions(all)
	infos := make([]SessionInfo, len(all))
	for i, ses := range all {
		infos[i] = ses.info()
	}
	return infos
}

func (ses *session) info() SessionInfo {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	return SessionInfo{
		ID: ses.id, Target: ses.target.id, Document: ses.document.Name, Owner: ses.owner.arn, Status: ses.status, Output: ses.output, Start: ses.start,
		ClientOnline: ses.client != nil, AgentOnline: ses.agent != nil, ToAgent: ses.toAgent.stats.info(), ToClient: ses.toClient.stats.info(),
	}
}

func (st *laneStats) info() LaneInfo {
	return LaneInfo{
		Messages: st.messages.Load(), Bytes: st.bytes.Load(), Lost: st.lost.Load(), Overflowed: st.overflowed.Load(),
		Duplicated: st.duplicated.Load(), Reordered: st.reordered.Load(), Greased: st.greased.Load(),
	}
}

// WaitSession waits until a session is as wanted, or until ctx ends. It looks whenever a side connects, leaves, or the session ends.
func (s *Server) WaitSession(ctx context.Context, id string, want func(SessionInfo) bool) error {
	return s.await(ctx, func() bool {
		ses := s.session(id)
		return ses != nil && want(ses.info())
	})
}
