package ssmproto

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
)

// DefaultClientVersion is announced to service and agent. The number matters: from 1.2.332.0 on the agent leaves out smux keepalives, which
// would defeat the idle timeout (SPEC.md §5.4). It must have four numbers and nothing else.
const DefaultClientVersion = "1.2.694.0"

// schemaVersion is the version of every JSON document and message of the data channel.
const schemaVersion = "1.0"

// Why a payload cannot be read.
var (
	ErrFlagPayload     = errors.New("ssmproto: flag is not four bytes")
	ErrExitCodePayload = errors.New("ssmproto: exit code cannot be read")
)

// NewUUID makes a random (version 4) identifier. It names messages and connections and is no secret, so the fast generator is enough.
func NewUUID() UUID {
	var u UUID
	binary.BigEndian.PutUint64(u[:8], rand.Uint64()) //nolint:gosec // a name, not a secret
	binary.BigEndian.PutUint64(u[8:], rand.Uint64()) //nolint:gosec // a name, not a secret
	u[6] = u[6]&0x0f | 0x40
	u[8] = u[8]&0x3f | 0x80
	return u
}

// openDataChannel is the first frame of every connection, as text (SPEC.md §2.2).
type openDataChannel struct {
	MessageSchemaVersion string
	RequestID            string `json:"RequestId"`
	TokenValue           string
	ClientID             string `json:"ClientId"`
	ClientVersion        string
}

// appendOpenDataChannel adds the first frame of a connection to b. RequestId is new for each connection, ClientId belongs to the Conn.
func appendOpenDataChannel(b []byte, token Token, clientID UUID, clientVersion string) ([]byte, error) {
	text, err := json.Marshal(openDataChannel{schemaVersion, NewUUID().String(), token.Reveal(), clientID.String(), clientVersion})
	if err != nil {
		return nil, fmt.Errorf("ssmproto: opening frame: %w", err)
	}
	return append(b, text...), nil
}

// ChannelClosedPayload is the content of a channel_closed message, as far as it matters (SPEC.md §9.1).
type ChannelClosedPayload struct {
	SessionID string `json:"SessionId"`
	Output    string // for the user; empty after a normal end
}

// ParseChannelClosed reads the payload of a channel_closed message.
func ParseChannelClosed(payload []byte) (ChannelClosedPayload, error) {
	var c ChannelClosedPayload
	if err := json.Unmarshal(payload, &c); err != nil {
		return ChannelClosedPayload{}, fmt.Errorf("ssmproto: channel_closed: %w", err)
	}
	return c, nil
}

// Append adds the four bytes of f to b.
func (f Flag) Append(b []byte) []byte { return binary.BigEndian.AppendUint32(b, uint32(f)) }

// ParseFlag reads the payload of a PayloadFlag message.
func ParseFlag(payload []byte) (Flag, error) {
	if len(payload) != 4 {
		return 0, ErrFlagPayload
	}
	return Flag(binary.BigEndian.Uint32(payload)), nil
}

// Size is the payload of a PayloadSize message: a terminal's size in characters (SPEC.md §3.3).
type Size struct {
	Cols uint32 `json:"cols"`
	Rows uint32 `json:"rows"`
}

// Append adds the JSON of s to b.
func (s Size) Append(b []byte) []byte {
	b = strconv.AppendUint(append(b, `{"cols":`...), uint64(s.Cols), 10)
	b = strconv.AppendUint(append(b, `,"rows":`...), uint64(s.Rows), 10)
	return append(b, '}')
}

// exitCodePrefix begins the text of a PayloadExitCode message (SPEC.md §3.3).
const exitCodePrefix = "EXIT_CODE: "

// ParseExitCode reads the payload of a PayloadExitCode message.
func ParseExitCode(payload []byte) (int, error) {
	digits, ok := strings.CutPrefix(string(payload), exitCodePrefix)
	code, err := strconv.Atoi(strings.TrimSpace(digits))
	if !ok || err != nil {
		return 0, ErrExitCodePayload
	}
	return code, nil
}
