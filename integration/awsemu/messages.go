package awsemu

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

// tokenLife is how long a token opens a channel. AWS gives no number but says that it is enough to connect.
const tokenLife = time.Minute

const maxTokens = 20_000

// token opens one WebSocket once: a data channel of a session for one side, or the control channel of a machine.
type token struct {
	side    Side
	session string // empty for control channels
	machine string // of control channels
	expires time.Time
	version string // of the agent that redeemed it
}

// hello is the first frame, as text, of whoever connects (SPEC.md §2.2). Other fields are not looked at.
type hello struct {
	MessageSchemaVersion string
	TokenValue           string
	AgentVersion         string // on control channels
}

// upgrader shares write buffers, because most sessions of many are silent at any moment.
var upgrader = websocket.Upgrader{ReadBufferSize: 4 << 10, WriteBufferSize: 4 << 10, WriteBufferPool: &sync.Pool{}}

// issueToken remembers a token and gives its text.
func (s *Server) issueToken(t token, expired bool) string {
	now := s.now()
	t.expires = now.Add(tokenLife)
	if expired {
		t.expires = now
	}
	text := randomSecret()
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.tokens) >= maxTokens {
		maps.DeleteFunc(s.tokens, func(_ string, t token) bool { return !now.Before(t.expires) })
	}
	s.tokens[text] = t
	return text
}

var errToken = errors.New("the token is unknown, used, expired or for something else")

// redeem uses a token up.
func (s *Server) redeem(text string) (token, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	t, ok := s.tokens[text]
	delete(s.tokens, text)
	if !ok || !s.now().Before(t.expires) {
		return token{}, errToken
	}
	return t, nil
}

// channelToken is the XML answer of CreateControlChannel and CreateDataChannel; the agent accepts any root element.
type channelToken struct {
	XMLName xml.Name
	Version string `xml:"MessageSchemaVersion"`
	Token   string `xml:"TokenValue"`
}

// createControlChannel gives an agent the token of its control channel.
func (s *Server) createControlChannel(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if !s.channelAllowed(w, r) {
		return
	}
	if !s.knowsMachine(id) {
		http.Error(w, "<AccessDeniedException><Message>"+id+" is not a machine of this account</Message></AccessDeniedException>", http.StatusBadRequest)
		return
	}
	s.writeToken(w, "CreateControlChannelOutput", s.issueToken(token{side: SideAgent, machine: id}, false))
}

// createDataChannel gives an agent the token of its side of a session, the first time and after a drop.
func (s *Server) createDataChannel(w http.ResponseWriter, r *http.Request) {
	id := r.PathValue("id")
	if !s.channelAllowed(w, r) {
		return
	}
	ses := s.session(id)
	if ses == nil || ses.isOver() {
		http.Error(w, "<BadRequest><Message>Session is already terminated</Message></BadRequest>", http.StatusBadRequest)
		return
	}
	s.writeToken(w, "CreateDataChannelOutput", s.issueToken(token{side: SideAgent, session: id}, ses.faults.Load().ExpireTokens))
}

func (s *Server) writeToken(w http.ResponseWriter, root, text string) {
	writeXML(w, http.StatusCreated, channelToken{XMLName: xml.Name{Local: root}, Version: "1.0", Token: text})
}

// channelAllowed reads the request and, where signatures are required, verifies its own.
func (s *Server) channelAllowed(w http.ResponseWriter, r *http.Request) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequestBody))
	if err == nil && s.cfg.RequireSignedChannels {
		var sig *signature
		if sig, err = parseSignature(r); err == nil && sig.service != serviceMessages {
			err = badRequest(codeBadSignature, "Credential should be scoped to correct service: '%s'.", serviceMessages)
		} else if err == nil {
			_, err = s.verify(r, sig, body)
		}
	}
	if err != nil {
		http.Error(w, err.Error(), http.StatusForbidden)
	}
	return err == nil
}

// openChannel upgrades and reads the hello. The caller releases the WebSocket.
func (s *Server) openChannel(w http.ResponseWriter, r *http.Request) (*websocket.Conn, token, bool) {
	if !s.channelAllowed(w, r) {
		return nil, token{}, false
	}
	ws, err := upgrader.Upgrade(w, r, http.Header{HeaderEmulator: {"yes"}})
	if err != nil {
		s.log.Debug("upgrade failed", "path", r.URL.Path, "error", err)
		return nil, token{}, false
	}
	ws.SetReadLimit(maxFrame)
	s.hold(ws)
	t, err := s.greet(ws)
	if err != nil {
		s.log.Debug("channel refused", "path", r.URL.Path, "error", err)
		newChannel(ws, "").close(websocket.ClosePolicyViolation, "invalid token")
		s.release(ws)
		return nil, token{}, false
	}
	return ws, t, true
}

// hold keeps a WebSocket for Close, since net/http forgets connections that were upgraded.
func (s *Server) hold(ws *websocket.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sockets[ws] = true
	if s.closed {
		_ = ws.NetConn().Close()
	}
}

// release breaks a WebSocket that hold has kept.
func (s *Server) release(ws *websocket.Conn) {
	_ = ws.NetConn().Close()
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.sockets, ws)
}

func (s *Server) greet(ws *websocket.Conn) (token, error) {
	if err := ws.SetReadDeadline(time.Now().Add(helloTimeout)); err != nil {
		return token{}, err
	}
	kind, text, err := ws.ReadMessage()
	if err != nil {
		return token{}, err
	}
	var h hello
	if kind != websocket.TextMessage {
		return token{}, errors.New("the first frame is not text")
	}
	if err := json.Unmarshal(text, &h); err != nil {
		return token{}, fmt.Errorf("first frame: %w", err)
	}
	if h.MessageSchemaVersion != "1.0" {
		return token{}, fmt.Errorf("message schema version is %q, not 1.0", h.MessageSchemaVersion)
	}
	t, err := s.redeem(h.TokenValue)
	if err != nil {
		return token{}, err
	}
	t.version = h.AgentVersion
	return t, ws.SetReadDeadline(time.Time{})
}

// serveDataChannel is both ends' way into a session: same path, told apart by the token.
func (s *Server) serveDataChannel(w http.ResponseWriter, r *http.Request) {
	if !s.enter() {
		http.Error(w, "closing", http.StatusServiceUnavailable)
		return
	}
	defer s.wg.Done()
	ws, t, ok := s.openChannel(w, r)
	if !ok {
		return
	}
	defer s.release(ws)
	c := newChannel(ws, t.side)
	ses := s.session(r.PathValue("id"))
	if ses == nil || t.session != ses.id {
		c.close(websocket.ClosePolicyViolation, "invalid token")
		return
	}
	if !ses.attach(c) {
		ses.sayOver(c)
		return
	}
	err := ses.relay(c)
	ses.detach(c)
	s.log.Debug("data channel ended", "session", ses.id, "side", c.side, "error", err)
}

// sayOver tells a side that comes too late why.
func (ses *session) sayOver(c *channel) {
	ses.mu.Lock()
	output := ses.output
	ses.mu.Unlock()
	if err := c.write(closedFrame(ses.id, ses.target.id, output, ses.faults.Load().LongChannelClosed)); err != nil {
		return
	}
	c.close(websocket.CloseNormalClosure, "")
	for {
		if _, err := c.read(); err != nil { // until the peer closes, or the deadline that close has set
			return
		}
	}
}

func (ses *session) isOver() bool {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	return ses.over()
}

func (s *Server) session(id string) *session {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.sessions[id]
}

// enter counts a goroutine that outlives its HTTP request's bookkeeping, unless the emulator is closing.
func (s *Server) enter() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.wg.Add(1)
	return true
}

func (s *Server) knowsMachine(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.instances[id] != nil || s.nodes[id] != nil
}
