package ssmproto

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Session types of documents and handshakes (SPEC.md §5.3).
const (
	SessionPort                   = "Port"
	SessionStandardStream         = "Standard_Stream"
	SessionInteractiveCommands    = "InteractiveCommands"
	SessionNonInteractiveCommands = "NonInteractiveCommands"
)

// Actions that an agent may request of a client (SPEC.md §5.3).
const (
	actionSessionType   = "SessionType"
	actionKMSEncryption = "KMSEncryption"
)

// ActionStatus is how a client fared with a requested action. Everything but ActionSuccess makes the agent give up the session.
type ActionStatus int

// The values of ActionStatus on the wire.
const (
	ActionSuccess     ActionStatus = 1
	ActionFailed      ActionStatus = 2
	ActionUnsupported ActionStatus = 3
)

// HandshakeRequest is what the agent says first (SPEC.md §5.3).
type HandshakeRequest struct {
	AgentVersion           string
	RequestedClientActions []RequestedAction
}

// RequestedAction is one demand of a HandshakeRequest; the shape of its parameters depends on its type.
type RequestedAction struct {
	ActionType       string
	ActionParameters json.RawMessage
}

// SessionTypeParameters are the parameters of a SessionType action.
type SessionTypeParameters struct {
	SessionType string
	Properties  PortProperties // zero for all but Port sessions
}

// PortProperties say what a Port session is connected to. Numbers are decimal text.
type PortProperties struct {
	PortNumber      string `json:"portNumber"`
	LocalPortNumber string `json:"localPortNumber"`
	Type            string `json:"type"`
	Host            string `json:"host"`
	// LocalConnectionType is "unix" where a document wants the client to listen at LocalUnixSocket instead of a port.
	LocalConnectionType string `json:"localConnectionType"`
	LocalUnixSocket     string `json:"localUnixSocket"`
}

// HandshakeResponse is the client's answer (SPEC.md §5.3).
type HandshakeResponse struct {
	ClientVersion          string
	ProcessedClientActions []ProcessedAction
	Errors                 []string
}

// ProcessedAction answers one RequestedAction.
type ProcessedAction struct {
	ActionType   string
	ActionStatus ActionStatus
	ActionResult any
	Error        string
}

// HandshakeComplete ends the handshake. CustomerMessage is for the user.
type HandshakeComplete struct {
	HandshakeTimeToComplete time.Duration
	CustomerMessage         string
}

// ParseHandshakeRequest reads the payload of a PayloadHandshakeRequest message.
func ParseHandshakeRequest(payload []byte) (HandshakeRequest, error) {
	var r HandshakeRequest
	if err := json.Unmarshal(payload, &r); err != nil {
		return HandshakeRequest{}, fmt.Errorf("ssmproto: handshake request: %w", err)
	}
	return r, nil
}

// ParseHandshakeComplete reads the payload of a PayloadHandshakeComplete message.
func ParseHandshakeComplete(payload []byte) (HandshakeComplete, error) {
	var h HandshakeComplete
	if err := json.Unmarshal(payload, &h); err != nil {
		return HandshakeComplete{}, fmt.Errorf("ssmproto: handshake complete: %w", err)
	}
	return h, nil
}

// Append adds the JSON of r to b.
func (r HandshakeResponse) Append(b []byte) ([]byte, error) {
	text, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("ssmproto: handshake response: %w", err)
	}
	return append(b, text...), nil
}

// peer is what the handshake told about the other side.
type peer struct {
	agentVersion string
	sessionType  string
	port         PortProperties
	message      string // for the user
}

// Versions of the agent from which something holds (SPEC.md §5.4).
const (
	agentAfterMux           = "3.0.196.0"
	agentAfterKeepaliveOff  = "3.1.1511.0"
	agentAfterTerminateFlag = "2.3.722.0"
)

// multiplexed says whether the bytes of the session are smux frames. The agent comes to the same answer from our version (SPEC.md §5.4).
func (p *peer) multiplexed() bool {
	return p.sessionType == SessionPort && p.port.Type == "LocalPortForwarding" && versionAfter(p.agentVersion, agentAfterMux)
}

// takesTerminateFlag says whether the agent ends the session when it gets the TerminateSession flag.
func (p *peer) takesTerminateFlag() bool {
	return p.sessionType == SessionPort && versionAfter(p.agentVersion, agentAfterTerminateFlag)
}

// versionAfter says whether version a is later than version b: numbers between dots, compared from the left. What is no number counts as 0.
func versionAfter(a, b string) bool {
	for a != "" || b != "" {
		var left, right string
		left, a, _ = strings.Cut(a, ".")
		right, b, _ = strings.Cut(b, ".")
		l, _ := strconv.Atoi(left)
		r, _ := strconv.Atoi(right)
		if l != r {
			return l > r
		}
	}
	return false
}

// keyMaker makes the session's key from the parameters of a KMSEncryption action.
type keyMaker func(parameters json.RawMessage) (*kmsResult, error)

// answer works through the actions of a handshake request. It returns what was learnt of the peer, the response, and the error that the
// session must end with, if any: the response then tells the agent as well.
func answer(request HandshakeRequest, clientVersion string, makeKey keyMaker) (peer, HandshakeResponse, error) {
	p := peer{agentVersion: request.AgentVersion}
	response := HandshakeResponse{ClientVersion: clientVersion, ProcessedClientActions: []ProcessedAction{}}
	var refused error
	for _, action := range request.RequestedClientActions {
		done := ProcessedAction{ActionType: action.ActionType}
		var err error
		switch action.ActionType {
		case actionSessionType:
			done.ActionStatus, err = p.learnSessionType(action.ActionParameters)
		case actionKMSEncryption:
			done.ActionStatus, done.ActionResult, err = encrypt(action.ActionParameters, makeKey)
		default:
			done.ActionStatus, err = ActionUnsupported, fmt.Errorf("ssmproto: the agent requests %q, which is unknown", action.ActionType)
		}
		if err != nil {
			done.Error = err.Error()
			response.Errors = append(response.Errors, done.Error)
			if refused == nil {
				refused = err
			}
		}
		response.ProcessedClientActions = append(response.ProcessedClientActions, done)
	}
	return p, response, refused
}

// encrypt answers a KMSEncryption action.
func encrypt(parameters json.RawMessage, makeKey keyMaker) (ActionStatus, any, error) {
	if makeKey == nil {
		return ActionUnsupported, nil, ErrEncryption
	}
	result, err := makeKey(parameters)
	if err != nil {
		return ActionFailed, nil, err
	}
	return ActionSuccess, result, nil
}

// learnSessionType takes up the parameters of a SessionType action.
func (p *peer) learnSessionType(parameters json.RawMessage) (ActionStatus, error) {
	var s SessionTypeParameters
	if err := json.Unmarshal(parameters, &s); err != nil {
		return ActionFailed, fmt.Errorf("ssmproto: session type: %w", err)
	}
	switch s.SessionType {
	case SessionPort, SessionStandardStream, SessionInteractiveCommands, SessionNonInteractiveCommands:
		p.sessionType, p.port = s.SessionType, s.Properties
		return ActionSuccess, nil
	default:
		return ActionFailed, fmt.Errorf("ssmproto: session type %q is unknown", s.SessionType)
	}
}
