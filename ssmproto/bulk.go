package ssmproto

import "time"

// fullPayload is what a message has at least while the agent has more to send: it reads 1,024 bytes at once (SPEC.md §7.6), and in a shell may keep the beginning
// of a character for the next message.
const fullPayload = 1000

// bulk is since when each side has had more to send. A side that has come to an end of it may be waiting for the other's answer: then a question, a file or a page
// is no part of something longer, and its last message is what somebody waits for. It has no clock.
//
// The agent has come to an end if its last message is not full. If it then goes on by itself, its port was a moment late; if it goes on after we have sent
// something, or after a pause, that is the beginning of something else. An end at a multiple of what it reads is not seen, once in a thousand times.
type bulk struct {
	up      time.Time // zero when nothing of ours is under way
	down    time.Time
	full    bool // so was the agent's last message
	atEnd   bool // it was not, when last looked at
	arrived time.Time
}

// heard notes the size of the agent's next message.
func (b *bulk) heard(size int) { b.full = size >= fullPayload }

// look gives for how long there has been bulk, in the direction in which that is longer, once all that was read at a time has been noted. data and answers say
// what was read; acknowledged, that nothing of ours is under way, or waiting.
func (b *bulk) look(now time.Time, data, answers, acknowledged bool) time.Duration {
	if acknowledged {
		b.up = time.Time{}
	} else if b.up.IsZero() {
		b.up = now
	}
	if data {
		if b.atEnd && (answers || now.Sub(b.arrived) > dripMost) {
			b.down = now
		}
		b.atEnd, b.arrived = !b.full, now
	}
	var longest time.Duration
	if !acknowledged {
		longest = now.Sub(b.up)
	}
	if b.full && b.down.IsZero() {
		b.down = now
	}
	if b.full {
		longest = max(longest, now.Sub(b.down))
	}
	return longest
}
