package ssmproto

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// Sizes and offsets of the binary message. They are the wire contract (SPEC.md §3.1) and may not move.
const (
	headerLength        = 116 // bytes before PayloadLength, as plugin and agent write it
	headerLengthService = 112 // the same without PayloadType, as the service writes it (SPEC.md §3.4)
	offsetType          = 4
	sizeType            = 32
	offsetSchemaVersion = 36
	offsetCreatedDate   = 40
	offsetSequence      = 48
	offsetFlags         = 56
	offsetID            = 64
	offsetDigest        = 80
	offsetPayloadType   = 112
	sizePayloadLength   = 4

	// Overhead is what every message adds to its payload, in bytes.
	Overhead = headerLength + sizePayloadLength
)

// MessageType names what a message is for (SPEC.md §3.2).
type MessageType string

// Message types of the data channel and, below them, of the agent's control channel.
const (
	InputStreamData   MessageType = "input_stream_data"   // client to agent, sequenced
	OutputStreamData  MessageType = "output_stream_data"  // agent to client, sequenced
	Acknowledge       MessageType = "acknowledge"         // both ways, for one sequenced message
	ChannelClosed     MessageType = "channel_closed"      // service to both: the session is over
	StartPublication  MessageType = "start_publication"   // service to both: the peer is there, go on
	PausePublication  MessageType = "pause_publication"   // service to both: stop sending for now
	AgentSessionState MessageType = "agent_session_state" // agent to service, not forwarded

	InteractiveShell     MessageType = "interactive_shell"      // service to agent: start a session
	AgentTaskComplete    MessageType = "agent_task_complete"    // agent to service: a session has ended
	AgentTaskAcknowledge MessageType = "agent_task_acknowledge" // service to agent: noted
)

// PayloadType says how the payload of a stream message is to be read (SPEC.md §3.3).
type PayloadType uint32

// Payload types, by their value on the wire.
const (
	PayloadNone                 PayloadType = 0
	PayloadOutput               PayloadType = 1
	PayloadError                PayloadType = 2
	PayloadSize                 PayloadType = 3
	PayloadParameter            PayloadType = 4
	PayloadHandshakeRequest     PayloadType = 5
	PayloadHandshakeResponse    PayloadType = 6
	PayloadHandshakeComplete    PayloadType = 7
	PayloadEncChallengeRequest  PayloadType = 8
	PayloadEncChallengeResponse PayloadType = 9
	PayloadFlag                 PayloadType = 10
	PayloadStdErr               PayloadType = 11
	PayloadExitCode             PayloadType = 12
)

// Flags of a message. Neither reference receiver looks at them (SPEC.md §3.2).
const (
	FlagSYN uint64 = 1
	FlagFIN uint64 = 2
)

// Flag is the value of a PayloadFlag message (SPEC.md §3.3).
type Flag uint32

// The three flags there are.
const (
	FlagDisconnectToPort   Flag = 1 // client to agent: close the destination connection
	FlagTerminateSession   Flag = 2 // client to agent: end the session
	FlagConnectToPortError Flag = 3 // agent to client: the destination refused
)

// UUID identifies a message. The bytes are in the usual order; the wire has the halves swapped (SPEC.md §3.1).
type UUID [16]byte

// String gives the usual form with hyphens.
func (u UUID) String() string {
	return fmt.Sprintf("%x-%x-%x-%x-%x", u[0:4], u[4:6], u[6:8], u[8:10], u[10:16])
}

// Message is one frame of the data or control channel (SPEC.md §3). Payload of a parsed message aliases the frame.
type Message struct {
	Type           MessageType
	SchemaVersion  uint32
	Created        time.Time // millisecond precision; never the zero time on the wire
	SequenceNumber int64
	Flags          uint64
	ID             UUID
	PayloadType    PayloadType
	Payload        []byte
}

// Why a frame cannot be read.
var (
	ErrShortMessage  = errors.New("ssmproto: message is shorter than its header")
	ErrHeaderLength  = errors.New("ssmproto: header length is neither 116 nor 112")
	ErrNoType        = errors.New("ssmproto: message has no type")
	ErrNoCreatedDate = errors.New("ssmproto: message has no creation date")
	ErrDigest        = errors.New("ssmproto: payload does not match its digest")
)

// Parse reads one frame without copying: the payload aliases frame, which is not modified.
// It has the tolerance of the reference receivers and not their mistakes (SPEC.md §3.4, §3.5): header lengths 116 and 112, NUL or space padding,
// a PayloadLength that is never believed. The digest is checked, except where the service is known to get it wrong or to leave it out: publication messages,
// and messages of its own without a payload. A stream message cut off behind its header is therefore refused.
func Parse(frame []byte) (Message, error) {
	if len(frame) < headerLengthService+sizePayloadLength {
		return Message{}, ErrShortMessage
	}
	header := binary.BigEndian.Uint32(frame)
	if header != headerLength && header != headerLengthService {
		return Message{}, ErrHeaderLength
	}
	if uint64(len(frame)) < uint64(header)+sizePayloadLength {
		return Message{}, ErrShortMessage
	}
	m := Message{
		Type:           parseType(frame[offsetType : offsetType+sizeType]),
		SchemaVersion:  binary.BigEndian.Uint32(frame[offsetSchemaVersion:]),
		SequenceNumber: int64(binary.BigEndian.Uint64(frame[offsetSequence:])),
		Flags:          binary.BigEndian.Uint64(frame[offsetFlags:]),
		Payload:        frame[header+sizePayloadLength:],
	}
	copy(m.ID[:8], frame[offsetID+8:offsetID+16])
	copy(m.ID[8:], frame[offsetID:offsetID+8])
	if header == headerLength {
		m.PayloadType = PayloadType(binary.BigEndian.Uint32(frame[offsetPayloadType:]))
	}
	if m.Type == "" {
		return Message{}, ErrNoType
	}
	publication := m.Type == StartPublication || m.Type == PausePublication
	created := binary.BigEndian.Uint64(frame[offsetCreatedDate:])
	if created == 0 && !publication {
		return Message{}, ErrNoCreatedDate
	}
	m.Created = time.UnixMilli(int64(created))
	stream := m.Type == InputStreamData || m.Type == OutputStreamData
	if !publication && (stream || len(m.Payload) > 0) && sha256.Sum256(m.Payload) != [sha256.Size]byte(frame[offsetDigest:offsetPayloadType]) {
		return Message{}, ErrDigest
	}
	return m, nil
}

// Append adds the frame of m to b: header length 116, type padded with spaces, digest of the payload. It allocates only when b is too small.
func (m *Message) Append(b []byte) []byte {
	start := len(b)
	b = append(m.appendHeader(b), m.Payload...)
	sealMessage(b[start:])
	return b
}

// sealMessage puts the length and the digest of the payload into the header of a message.
func sealMessage(message []byte) {
	payload := message[Overhead:]
	digest := sha256.Sum256(payload)
	copy(message[offsetDigest:offsetPayloadType], digest[:])
	binary.BigEndian.PutUint32(message[headerLength:], uint32(len(payload)))
}

// appendHeader adds the header of m to b, with nothing yet in the places for the length and the digest of the payload.
func (m *Message) appendHeader(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, headerLength)
	b = append(b, m.Type...)
	for i := len(m.Type); i < sizeType; i++ {
		b = append(b, ' ')
	}
	b = binary.BigEndian.AppendUint32(b, m.SchemaVersion)
	b = binary.BigEndian.AppendUint64(b, uint64(m.Created.UnixMilli()))
	b = binary.BigEndian.AppendUint64(b, uint64(m.SequenceNumber))
	b = binary.BigEndian.AppendUint64(b, m.Flags)
	b = append(b, m.ID[8:]...)
	b = append(b, m.ID[:8]...)
	var digest [sha256.Size]byte
	b = append(b, digest[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(m.PayloadType))
	return binary.BigEndian.AppendUint32(b, 0)
}

// parseType trims the padding and returns one of the constants where it can, so that no known type allocates.
func parseType(field []byte) MessageType {
	start, end := 0, len(field)
	for start < end && isPadding(field[start]) {
		start++
	}
	for end > start && isPadding(field[end-1]) {
		end--
	}
	switch name := field[start:end]; string(name) {
	case string(InputStreamData):
		return InputStreamData
	case string(OutputStreamData):
		return OutputStreamData
	case string(Acknowledge):
		return Acknowledge
	default:
		return MessageType(name)
	}
}

func isPadding(c byte) bool {
	return c == 0 || c == ' ' || c == '\t' || c == '\r' || c == '\n'
}
