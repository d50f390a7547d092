package ssmproto

import (
	"sync"
	"time"
)

// frame is one message in its encoded form, ours while it waits for its acknowledgement or theirs while it waits to be read.
// Frames are recycled: whoever takes one out of a window or queue releases it.
type frame struct {
	buf  []byte // the whole message; never changed once it is sealed, so that it can be sent again byte for byte
	seq  int64
	kind PayloadType
	rest []byte // received: what of the payload is still to be read
	next *frame // received: the frame behind this one in a frameQueue

	sealed       bool      // ours: length and digest of the payload are in place
	sends        int       // sent: how often so far
	sentAt       time.Time // sent: the last time
	busy         bool      // sent: being written to the socket just now
	acked        bool      // sent: acknowledged while it was busy
	older, newer *frame    // sent: before and after it in the order of sentAt
}

// smallFrame holds a message of the size that both reference sides produce: 1024 bytes of payload, and a little more for text that the
// agent cuts at character boundaries (SPEC.md §8).
const smallFrame = Overhead + 1032

// frames are recycled by size, so that a keystroke does not occupy the memory of a bulk message: in class k are those with room for a payload of 1 KiB
// times 2 to the k, up to 64 KiB. Larger ones are left to the garbage collector.
var frames [7]sync.Pool

// frameSize is the room in frames of class k.
func frameSize(k int) int { return smallFrame + (1024<<k - 1024) }

// frameClass is the smallest class with room for size bytes; len(frames) if there is none.
func frameClass(size int) int {
	k := 0
	for k < len(frames) && frameSize(k) < size {
		k++
	}
	return k
}

// newFrame gives an empty frame with room for size bytes.
func newFrame(size int) *frame {
	k := frameClass(size)
	if k == len(frames) {
		return &frame{buf: make([]byte, 0, size)}
	}
	if f, ok := frames[k].Get().(*frame); ok {
		return f
	}
	return &frame{buf: make([]byte, 0, frameSize(k))}
}

// moved gives a frame of another size with the same content.
func (f *frame) moved(size int) *frame {
	other := newFrame(size)
	other.buf = append(other.buf, f.buf...)
	f.release()
	return other
}

// fitted gives the frame, or its content in a smaller one if it wastes memory: what waits to be read is bounded by the memory it occupies.
func (f *frame) fitted() *frame {
	if frameSize(frameClass(len(f.buf))) < cap(f.buf)/2 {
		return f.moved(len(f.buf))
	}
	return f
}

// seal completes a message of ours. It is called before the first sending; nothing may be added after that.
func (f *frame) seal() {
	if !f.sealed {
		sealMessage(f.buf)
		f.sealed = true
	}
}

// release gives the frame back.
func (f *frame) release() {
	*f = frame{buf: f.buf[:0]}
	if k := frameClass(cap(f.buf)); k < len(frames) && frameSize(k) == cap(f.buf) {
		frames[k].Put(f)
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
