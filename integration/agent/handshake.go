package agent

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// The three messages of a handshake (SPEC.md §5.3).
type (
	handshakeRequest struct {
		AgentVersion           string
		RequestedClientActions []clientAction
	}
	clientAction struct {
		ActionType       string
		ActionParameters sessionTypeParameters
	}
	sessionTypeParameters struct {
		SessionType string
		Properties  json.RawMessage // null for all but Port
	}
	handshakeResponse struct {
		ClientVersion          string
		ProcessedClientActions []struct {
			ActionType   string
			ActionStatus int
			Error        string
		}
		Errors []string
	}
	handshakeComplete struct {
		HandshakeTimeToComplete time.Duration // nanoseconds
		CustomerMessage         string
	}
)

const (
	actionSessionType   = "SessionType"
	actionSuccess       = 1
	oldSeparatedVersion = "1.2.295" // clients up to this one do not tell the two streams of a command apart
	separatedAdvice     = "Please update session manager plugin version (minimum required version 1.2.312.0) for fully support of separate StdOut/StdErr output.\r\n"
)

// handshake asks the client for its version (SPEC.md §5.2). What arrives in the meantime is acknowledged and thrown away, unless the quirk is off.
func (s *session) handshake(ctx context.Context) (client version, err error) {
	started := time.Now()
	responses := make(chan handshakeResponse) // unbuffered, as in the real agent: a second response blocks the reader (SPEC.md §4.4)
	s.channel.handleWith(func(m ssmproto.Message) error { return s.duringHandshake(ctx, m, responses) })
	request, err := json.Marshal(handshakeRequest{
		AgentVersion:           s.agent.cfg.AgentVersion,
		RequestedClientActions: []clientAction{{actionSessionType, sessionTypeParameters{SessionType: s.start.kind, Properties: s.start.announced()}}},
	})
	if err != nil {
		return version{}, err
	}
	s.channel.send(ssmproto.PayloadHandshakeRequest, request)
	limit := time.NewTimer(clientHandshake)
	defer limit.Stop()
	var response handshakeResponse
	select {
	case response = <-responses:
	case <-limit.C:
		return version{}, errHandshakeTimeout
	case <-ctx.Done():
		return version{}, context.Cause(ctx)
	}
	for _, action := range response.ProcessedClientActions {
		if action.ActionStatus != actionSuccess {
			return version{}, fmt.Errorf("%s failed on client with status %d error: %s", action.ActionType, action.ActionStatus, action.Error)
		}
	}
	s.clientText = response.ClientVersion
	s.tookShake = time.Since(started)
	return parseVersion(response.ClientVersion), nil
}

func (s *session) duringHandshake(ctx context.Context, m ssmproto.Message, responses chan<- handshakeResponse) error {
	if m.PayloadType != ssmproto.PayloadHandshakeResponse {
		if s.agent.cfg.Quirks.KeepEarlyData {
			return errNotReady
		}
		return nil // acknowledged, counted and gone
	}
	var response handshakeResponse
	if err := json.Unmarshal(m.Payload, &response); err != nil {
		return err
	}
	select {
	case responses <- response:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// completeHandshake announces the end of the handshake. From its return on, input waits unacknowledged for the session's handler; before,
// it is still thrown away, although the client may have read the announcement already.
func (s *session) completeHandshake(message string) error {
	complete, err := json.Marshal(handshakeComplete{s.tookShake, message})
	if err != nil {
		return err
	}
	if s.agent.cfg.Quirks.KeepEarlyData {
		s.channel.handleWith(nil)
	}
	s.channel.send(ssmproto.PayloadHandshakeComplete, complete)
	s.channel.handleWith(nil)
	return nil
}
