package awsemu

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"strconv"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Where the relay looks into a frame (SPEC.md §3.1). It reads these fields only and forwards the frame as it came.
const (
	frameTypeStart   = 4
	frameTypeEnd     = 36
	framePayloadType = 112
	frameOverhead    = 120
	frameHeader112   = 112
)

// frameType gives the message type without looking at the rest, since the service does not check digests either. It is empty for frames that are too short.
func frameType(frame []byte) ssmproto.MessageType {
	if len(frame) < frameTypeEnd {
		return ""
	}
	switch name := bytes.TrimSpace(bytes.Trim(frame[frameTypeStart:frameTypeEnd], "\x00")); string(name) {
	case string(ssmproto.InputStreamData):
		return ssmproto.InputStreamData
	case string(ssmproto.OutputStreamData):
		return ssmproto.OutputStreamData
	case string(ssmproto.Acknowledge):
		return ssmproto.Acknowledge
	default:
		return ssmproto.MessageType(name)
	}
}

// isHandshakeComplete finds the message after which nothing may be injected (SPEC.md §4.4).
func isHandshakeComplete(frame []byte) bool {
	return len(frame) >= frameOverhead && ssmproto.PayloadType(binary.BigEndian.Uint32(frame[framePayloadType:])) == ssmproto.PayloadHandshakeComplete
}

// serviceFrame makes a message of the service in the 116-byte form.
func serviceFrame(kind ssmproto.MessageType, payload []byte) []byte {
	m := ssmproto.Message{Type: kind, SchemaVersion: 1, Created: time.Now(), Flags: ssmproto.FlagSYN | ssmproto.FlagFIN, ID: newUUID(), Payload: payload}
	return m.Append(nil)
}

// channelClosed is the payload of channel_closed (SPEC.md §9.1). CreatedDate is text there.
type channelClosed struct {
	MessageID     string `json:"MessageId"`
	CreatedDate   string
	DestinationID string `json:"DestinationId"`
	SessionID     string `json:"SessionId"`
	MessageType   string
	SchemaVersion int
	Output        string
}

// closedFrame makes channel_closed, as AWS does with a header of 112 bytes unless long asks for 116.
func closedFrame(sessionID, destination, output string, long bool) []byte {
	id, now := newUUID(), time.Now()
	payload := mustJSON(channelClosed{
		MessageID: id.String(), CreatedDate: strconv.FormatInt(now.UnixMilli(), 10), DestinationID: destination, SessionID: sessionID,
		MessageType: string(ssmproto.ChannelClosed), SchemaVersion: 1, Output: output,
	})
	if long {
		m := ssmproto.Message{Type: ssmproto.ChannelClosed, SchemaVersion: 1, Created: now, ID: id, Payload: payload}
		return m.Append(nil)
	}
	b := binary.BigEndian.AppendUint32(nil, frameHeader112)
	b = append(b, string(ssmproto.ChannelClosed)...)
	b = append(b, make([]byte, frameTypeEnd-len(b))...)
	b = binary.BigEndian.AppendUint32(b, 1)
	b = binary.BigEndian.AppendUint64(b, uint64(now.UnixMilli()))
	b = append(b, make([]byte, 16)...) // sequence number and flags
	b = append(b, id[8:]...)
	b = append(b, id[:8]...)
	digest := sha256.Sum256(payload)
	b = append(b, digest[:]...)
	b = binary.BigEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// mustJSON marshals the package's own structs of text and numbers, which cannot fail.
func mustJSON(v any) []byte {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return b
}
