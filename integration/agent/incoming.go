package agent

import "github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"

const maxIncoming = 100_000 // messages out of order, SPEC.md §4.3

// incoming puts input into order. It has no lock: only the reader uses it.
type incoming struct {
	expected int64
	early    map[int64]ssmproto.Message
}

// place is where a message stands in the order.
type place int

const (
	placeNext  place = iota // process, then acknowledge
	placeEarly              // kept for later: acknowledge
	placeOld                // a duplicate: acknowledge again
	placeNone               // no room: leave unacknowledged
)

func (in *incoming) place(m ssmproto.Message) place {
	switch {
	case m.SequenceNumber < in.expected:
		return placeOld
	case m.SequenceNumber == in.expected:
		return placeNext
	}
	if _, known := in.early[m.SequenceNumber]; !known && len(in.early) >= maxIncoming {
		return placeNone
	}
	if in.early == nil {
		in.early = map[int64]ssmproto.Message{}
	}
	in.early[m.SequenceNumber] = m
	return placeEarly
}

// advance counts the expected message as processed.
func (in *incoming) advance() {
	delete(in.early, in.expected)
	in.expected++
}

// next returns the expected message if it is there already.
func (in *incoming) next() (ssmproto.Message, bool) {
	m, ok := in.early[in.expected]
	return m, ok
}
