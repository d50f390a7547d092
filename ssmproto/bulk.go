package ssmproto

import "time"

// fullPayload is what a message has at least while the agent has more to send: it reads 1,024 bytes at once (SPEC.md §7.6), and in a shell may keep the beginning
// of a character for the next message.
const fullPayload = 1000

// bulk is since when each side has had more to send. A side that has come to an end of it may be waiting for the other's answer: then a question, a file or a page
// is no part of something longer, and its last message is what somebody waits for. That the agent has come to an end at a multiple of what it reads is not seen, once in
// a thousand times. It has no clock.
type bulk struct {
	up, down time.Time // zero for a side that has nothing more to send
	full     bool      // so was the agent's last message
}

// heard notes the size of the agent's next message. A shorter one is the last of what the agent has.
func (b *bulk) heard(size int) {
	if b.full = size >= fullPayload; !b.full {
		b.down = time.Time{}
	}
}

// look gives for how long there has been bulk, in the direction in which that is longer. acknowledged says that nothing of ours is under way, or waiting.
func (b *bulk) look(now time.Time, acknowledged bool) time.Duration {
	if acknowledged {
		b.up = time.Time{}
	} else if b.up.IsZero() {
		b.up = now
	}
	if b.full && b.down.IsZero() {
		b.down = now
	}
	var longest time.Duration
	for _, since := range []time.Time{b.up, b.down} {
		if !since.IsZero() {
			longest = max(longest, now.Sub(since))
		}
	}
	return longest
}
