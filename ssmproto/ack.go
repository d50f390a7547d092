package ssmproto

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"strconv"
)

// Ack is the payload of an acknowledge message (SPEC.md §4.1). It names one message, not all up to it.
type Ack struct {
	Type           MessageType // of the acknowledged message: one of the two stream types
	ID             UUID
	SequenceNumber int64
}

// ErrAck says that the payload of an acknowledge message cannot be read.
var ErrAck = errors.New("ssmproto: acknowledgement cannot be read")

// The JSON of an acknowledgement in the order in which both reference sides write it.
const (
	ackOpen   = `{"AcknowledgedMessageType":"`
	ackID     = `","AcknowledgedMessageId":"`
	ackNumber = `","AcknowledgedMessageSequenceNumber":`
	ackClose  = `,"IsSequentialMessage":true}`
)

// sizeUUIDText is the length of a UUID with its hyphens.
const sizeUUIDText = 36

// Append adds the JSON of a to b. It allocates only when b is too small.
func (a Ack) Append(b []byte) []byte {
	b = append(b, ackOpen...)
	b = append(b, a.Type...)
	b = append(b, ackID...)
	b = a.ID.appendText(b)
	b = append(b, ackNumber...)
	b = strconv.AppendInt(b, a.SequenceNumber, 10)
	return append(b, ackClose...)
}

// ParseAck reads the payload of an acknowledge message. The form the reference sides write is read without allocating, any other JSON slowly.
func ParseAck(payload []byte) (Ack, error) {
	if a, ok := parseUsualAck(payload); ok {
		return a, nil
	}
	var slow struct {
		AcknowledgedMessageType           MessageType
		AcknowledgedMessageID             string `json:"AcknowledgedMessageId"`
		AcknowledgedMessageSequenceNumber *int64
	}
	if err := json.Unmarshal(payload, &slow); err != nil || slow.AcknowledgedMessageSequenceNumber == nil {
		return Ack{}, ErrAck
	}
	a := Ack{Type: slow.AcknowledgedMessageType, SequenceNumber: *slow.AcknowledgedMessageSequenceNumber}
	id, ok := parseUUID([]byte(slow.AcknowledgedMessageID))
	if !ok && slow.AcknowledgedMessageID != "" {
		return Ack{}, ErrAck
	}
	a.ID = id
	return a, nil
}

// parseUsualAck reads exactly what Append writes.
func parseUsualAck(payload []byte) (a Ack, ok bool) {
	rest, ok := bytes.CutPrefix(payload, []byte(ackOpen))
	if !ok {
		return Ack{}, false
	}
	switch name, after, found := bytes.Cut(rest, []byte(ackID)); {
	case !found:
		return Ack{}, false
	case string(name) == string(InputStreamData):
		a.Type, rest = InputStreamData, after
	case string(name) == string(OutputStreamData):
		a.Type, rest = OutputStreamData, after
	default:
		return Ack{}, false
	}
	if len(rest) < sizeUUIDText {
		return Ack{}, false
	}
	if a.ID, ok = parseUUID(rest[:sizeUUIDText]); !ok {
		return Ack{}, false
	}
	digits, ok := bytes.CutPrefix(rest[sizeUUIDText:], []byte(ackNumber))
	if !ok {
		return Ack{}, false
	}
	if digits, ok = bytes.CutSuffix(digits, []byte(ackClose)); !ok {
		return Ack{}, false
	}
	a.SequenceNumber, ok = parseDigits(digits)
	return a, ok
}

// parseDigits reads a number that is not negative, in its shortest form, of at most 18 digits: these always fit.
func parseDigits(digits []byte) (n int64, ok bool) {
	if len(digits) == 0 || len(digits) > 18 || (digits[0] == '0' && len(digits) > 1) {
		return 0, false
	}
	for _, d := range digits {
		if d < '0' || d > '9' {
			return 0, false
		}
		n = n*10 + int64(d-'0')
	}
	return n, true
}

// uuidGroups are the places of the five groups of a UUID in its text and in its bytes.
var uuidGroups = [5]struct{ text, bytes, size int }{{0, 0, 4}, {9, 4, 2}, {14, 6, 2}, {19, 8, 2}, {24, 10, 6}}

// appendText adds the usual form with hyphens to b.
func (u UUID) appendText(b []byte) []byte {
	for i, g := range uuidGroups {
		if i > 0 {
			b = append(b, '-')
		}
		b = hex.AppendEncode(b, u[g.bytes:g.bytes+g.size])
	}
	return b
}

// parseUUID reads the usual form with hyphens, in either case.
func parseUUID(text []byte) (u UUID, ok bool) {
	if len(text) != sizeUUIDText {
		return UUID{}, false
	}
	for i, g := range uuidGroups {
		if i > 0 && text[g.text-1] != '-' {
			return UUID{}, false
		}
		if _, err := hex.Decode(u[g.bytes:g.bytes+g.size], text[g.text:g.text+2*g.size]); err != nil {
			return UUID{}, false
		}
	}
	return u, true
}
