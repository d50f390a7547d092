package ssmproto

import (
	"errors"
	"fmt"
)

// How a session can end or refuse to begin, beside the errors of net and io. Read gives io.EOF when the other side ended the session normally.
var (
	// ErrSessionOver says that the session does not exist any more. Grant.Resume returns it (possibly wrapped) to say so.
	ErrSessionOver = errors.New("ssmproto: the session is over")
	// ErrConnectToPort says that the agent could not connect to the port (SPEC.md §3.3, flag 3).
	ErrConnectToPort = errors.New("ssmproto: the instance refused the connection to the port")
	// ErrHandshakeTimeout says that the agent did not complete its handshake within Options.HandshakeTimeout.
	ErrHandshakeTimeout = errors.New("ssmproto: no handshake from the instance within the time limit")
	// ErrConnectionLost says that the connection to the service was lost and could not be resumed.
	ErrConnectionLost = errors.New("ssmproto: the connection to the service is lost")
	// ErrPeerSilent says that the service is there but the agent has acknowledged nothing for Options.PeerTimeout.
	ErrPeerSilent = errors.New("ssmproto: the instance acknowledges nothing")
	// ErrEncryption says that the session demands KMS encryption and Grant.GenerateDataKey or Grant.Target is not set (SPEC.md §6).
	ErrEncryption = errors.New("ssmproto: the session demands KMS encryption")
	// ErrNotMultiplexed says that the session carries one connection only, so that NewMux has nothing to do.
	ErrNotMultiplexed = errors.New("ssmproto: the session carries a single connection")
	// ErrMultiplexed says that the session carries smux frames: its bytes are reached through NewMux or DialPort.
	ErrMultiplexed = errors.New("ssmproto: the session is multiplexed, use NewMux or DialPort")
	// ErrUndelivered says that Close gave up waiting for the acknowledgement of data.
	ErrUndelivered = errors.New("ssmproto: closed before all data was acknowledged")
)

// SessionEndedError says that the service closed the session (SPEC.md §9.1). It is an ErrSessionOver.
type SessionEndedError struct {
	SessionID string
	// Output is the text of the service for the user; empty after a normal end.
	Output string
}

// Error gives the text of the service where there is one.
func (e *SessionEndedError) Error() string {
	if e.Output == "" {
		return fmt.Sprintf("ssmproto: session %s has ended", e.SessionID)
	}
	return fmt.Sprintf("ssmproto: session %s has ended: %s", e.SessionID, e.Output)
}

// Unwrap makes every ended session an ErrSessionOver.
func (e *SessionEndedError) Unwrap() error { return ErrSessionOver }
