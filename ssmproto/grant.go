package ssmproto

import (
	"context"
	"log/slog"
	"net/http"
)

// Token opens one data channel once. It is a secret: it prints, logs and marshals as redacted; Reveal gives the text.
type Token struct{ secret string }

// NewToken wraps the TokenValue of StartSession or ResumeSession.
func NewToken(value string) Token { return Token{secret: value} }

// Reveal gives the text of the token, for the first frame of a data channel and nothing else.
func (t Token) Reveal() string { return t.secret }

// String hides the token.
func (t Token) String() string { return "[redacted]" }

// GoString hides the token from %#v.
func (t Token) GoString() string { return "ssmproto.Token{[redacted]}" }

// LogValue hides the token from slog.
func (t Token) LogValue() slog.Value { return slog.StringValue("[redacted]") }

// MarshalText hides the token from encoders.
func (t Token) MarshalText() ([]byte, error) { return []byte("[redacted]"), nil }

// Grant is the right to one session, as StartSession gives it, with the calls that only its giver can make.
// The functions are the seam to AWS: this package knows neither SDK nor credentials.
type Grant struct {
	// SessionID names the session. Required.
	SessionID string
	// StreamURL is used exactly as received, also when resuming (SPEC.md §2.1). Required.
	StreamURL string
	// Target is what StartSession was asked for, the id of an instance. Only GenerateDataKey needs it: it is part of what the key is bound to (SPEC.md §6).
	Target string
	// Token opens the first data channel. Required.
	Token Token
	// Resume asks ResumeSession for a fresh token after a lost connection. It returns ErrSessionOver (possibly wrapped) when the session has ended,
	// any other error when asking again later may help. Without it a lost connection is the end.
	Resume func(ctx context.Context, sessionID string) (Token, error)
	// Terminate calls TerminateSession. It is called once, when a session ends and neither the service nor the agent has said that it is over; also after
	// ErrSessionOver from Resume, which a person hears who may not resume any more. It must not mind a session that is gone. Optional.
	Terminate func(ctx context.Context, sessionID string) error
	// Sign adds SigV4 headers (service ssmmessages) to the WebSocket upgrade (SPEC.md §2.1). Optional: unsigned upgrades are accepted today.
	Sign func(ctx context.Context, req *http.Request) error
	// GenerateDataKey calls KMS for the key of an encrypted shell session (SPEC.md §6): keyID as the agent named it, DataKeySize bytes, and the encryption
	// context as it is given. Optional: without it such a session fails with ErrEncryption. Ports are never encrypted.
	GenerateDataKey func(ctx context.Context, keyID string, encryptionContext map[string]string) (DataKey, error)
}
