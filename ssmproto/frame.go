package ssmproto

import (
	"sync"
	"time"
)

// frame is one message in its encoded form, ours while it waits for its acknowledgement or theirs while it waits to be read.
// Frames are recycled: whoever takes one out of a window or queue releases it.
type frame struct {
	buf  []byte // the whole message; never changed while the frame is in use, so that it can be sent again byte for byte
	seq  int64
	kind PayloadType
	rest []byte // received: what of the payload is still to be read
	next *frame // received: the frame behind this one in a frameQueue

	sends        int       // sent: how often so far
	sentAt       time.Time // sent: the last time
	busy         bool      // sent: being written to the socket just now
	acked        bool      // sent: acknowledged while it was busy
	older, newer *frame    // sent: before and after it in the order of sentAt
}

// smallFrame holds a message of the size that both reference sides produce: 1024 bytes of payload, and a little more for text that the
// agent cuts at character boundaries (SPEC.md §8).
const smallFrame = Overhead + 1032

// Two pools, so that a keystroke does not occupy the memory of a bulk message.
var (
	smallFrames = sync.Pool{New: func() any { return &frame{buf: make([]byte, 0, smallFrame)} }}
	largeFrames sync.Pool
)

// newFrame gives an empty frame with room for size bytes.
func newFrame(size int) *frame {
	if size <= smallFrame {
		return smallFrames.Get().(*frame)
	}
	if f, ok := largeFrames.Get().(*frame); ok && cap(f.buf) >= size {
		return f
	}
	return &frame{buf: make([]byte, 0, size)}
}

// fitted gives the frame, or its content in a smaller one if it wastes memory: what waits to be read is bounded by the memory it occupies.
func (f *frame) fitted() *frame {
	if len(f.buf) > smallFrame || cap(f.buf) <= 2*smallFrame {
		return f
	}
	small := newFrame(len(f.buf))
	small.buf = append(small.buf, f.buf...)
	f.release()
	return small
}

// release gives the frame back.
func (f *frame) release() {
	*f = frame{buf: f.buf[:0]}
	if cap(f.buf) > 2*smallFrame {
		largeFrames.Put(f)
	} else {
		smallFrames.Put(f)
	}
}

// frameQueue is a list of received frames in the order of reading. Its size is what the frames occupy, not what they carry, so that many
// small messages cannot hide their cost.
type frameQueue struct {
	first, last *frame
	size        int // bytes of memory
}

func (q *frameQueue) push(f *frame) {
	if q.last == nil {
		q.first = f
	} else {
		q.last.next = f
	}
	q.last = f
	q.size += cap(f.buf)
}

// read moves as much as there is into p and releases the frames that are used up.
func (q *frameQueue) read(p []byte) int {
	n := 0
	for q.first != nil && n < len(p) {
		f := q.first
		copied := copy(p[n:], f.rest)
		n += copied
		if f.rest = f.rest[copied:]; len(f.rest) > 0 {
			break
		}
		q.drop()
	}
	return n
}

// drop releases the first frame.
func (q *frameQueue) drop() {
	f := q.first
	if q.first = f.next; q.first == nil {
		q.last = nil
	}
	q.size -= cap(f.buf)
	f.release()
}
