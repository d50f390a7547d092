package agent

import (
	"context"
	crand "crypto/rand"
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
		ActionParameters any
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
			ActionResult json.RawMessage
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

// handshake asks the client for its version, and for a key where the session is to be encrypted (SPEC.md §5.2, §6). What arrives in the meantime is
// acknowledged and thrown away, unless the quirk is off.
func (s *session) handshake(ctx context.Context) (client version, err error) {
	started := time.Now()
	// The first two are unbuffered, so that a second response blocks the reader, as in the real agent (SPEC.md §4.4).
	hear := shakes{make(chan handshakeResponse), make(chan encryptionChallenge), make(chan struct{}, 1)}
	s.channel.handleWith(func(m ssmproto.Message) error { return s.duringHandshake(ctx, m, hear) })
	actions := []clientAction{{actionSessionType, sessionTypeParameters{SessionType: s.start.kind, Properties: s.start.announced()}}}
	random := make([]byte, randomChallengeSize)
	if s.encrypts() {
		_, _ = crand.Read(random)
		actions = append(actions, clientAction{actionKMSEncryption, kmsParameters{s.start.inputs.KMSKeyID, random}})
	}
	request, err := json.Marshal(handshakeRequest{AgentVersion: s.agent.cfg.AgentVersion, RequestedClientActions: actions})
	if err != nil {
		return version{}, err
	}
	s.channel.send(ssmproto.PayloadHandshakeRequest, request)
	response, err := listen(ctx, hear.responses, hear.acknowledged)
	if err != nil {
		return version{}, err
	}
	for _, action := range response.ProcessedClientActions {
		if action.ActionStatus != actionSuccess {
			return version{}, fmt.Errorf("%s failed on client with status %d error: %s", action.ActionType, action.ActionStatus, action.Error)
		}
		if action.ActionType == actionKMSEncryption {
			var result kmsResult
			if err := json.Unmarshal(action.ActionResult, &result); err != nil {
				return version{}, err
			}
			if err := s.encrypt(ctx, result, random, hear); err != nil {
				return version{}, err
			}
		}
	}
	if s.encrypts() && !s.channel.encrypts() {
		return version{}, errChallenge
	}
	s.clientText = response.ClientVersion
	s.tookShake = time.Since(started)
	return parseVersion(response.ClientVersion), nil
}

// encrypts says whether the session is to be encrypted: ports never are (SPEC.md §6).
func (s *session) encrypts() bool { return s.start.inputs.KMSKeyID != "" && s.start.kind != typePort }

// shakes takes what the client says during the handshake.
type shakes struct {
	responses    chan handshakeResponse
	challenges   chan encryptionChallenge
	acknowledged chan struct{} // one for each of them
}

// listen waits for the client's next step, and until it has been acknowledged. The real agent does not wait for that, and is microseconds late if at all. Here,
// where a processor is busy, the acknowledgement would come behind HandshakeComplete, and AWS's plugin is deaf for good after any message in the moment in
// which it prepares to forward ports: it asks a client that it does not have yet (IsStreamNotSet in its muxportforwarding.go).
func listen[T any](ctx context.Context, from <-chan T, acknowledged <-chan struct{}) (T, error) {
	answer, err := await(ctx, from)
	if err == nil {
		_, err = await(ctx, acknowledged)
	}
	return answer, err
}

// await waits for the client's next step, as long as the real agent does.
func await[T any](ctx context.Context, from <-chan T) (T, error) {
	var none T
	limit := time.NewTimer(clientHandshake)
	defer limit.Stop()
	select {
	case answer := <-from:
		return answer, nil
	case <-limit.C:
		return none, errHandshakeTimeout
	case <-ctx.Done():
		return none, context.Cause(ctx)
	}
}

// hand gives the reader's message to who waits for it.
func hand[T any](ctx context.Context, payload []byte, to chan<- T) error {
	var content T
	if err := json.Unmarshal(payload, &content); err != nil {
		return err
	}
	select {
	case to <- content:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *session) duringHandshake(ctx context.Context, m ssmproto.Message, hear shakes) error {
	heard := func(err error) error {
		if err == nil {
			s.channel.afterAck = func() { hear.acknowledged <- struct{}{} }
		}
		return err
	}
	switch {
	case m.PayloadType == ssmproto.PayloadHandshakeResponse:
		return heard(hand(ctx, m.Payload, hear.responses))
	case m.PayloadType == ssmproto.PayloadEncChallengeResponse:
		return heard(hand(ctx, m.Payload, hear.challenges))
	case s.agent.cfg.Quirks.KeepEarlyData:
		return errNotReady
	default:
		return nil // acknowledged, counted and gone
	}
}

// completeHandshake announces the end of the handshake. From then on, input waits unacknowledged for the session's handler. The real agent throws it
// away for a few microseconds more (SPEC.md §4.4), which its round trip to the client always covers; over loopback, with this goroutine off the
// processor, it would be what the client really says, and no client could get it back.
func (s *session) completeHandshake(message string) error {
	complete, err := json.Marshal(handshakeComplete{s.tookShake, message})
	if err != nil {
		return err
	}
	s.channel.handleWith(nil)
	s.channel.send(ssmproto.PayloadHandshakeComplete, complete)
	return nil
}
