package bridge

import (
	"io"
	"sync"
)

// Copy buffers. Idle channels are many and bulk is rare: 8 KiB per stream costs half the memory of io.Copy's 32 KiB at the same speed of typing, and
// 32 KiB is what the SSH library sends in one packet at most.
const (
	smallCopy  = 8 << 10
	stderrCopy = 1 << 10
	bulkCopy   = 32 << 10
)

// bulkBuffers holds buffers for streams that are in full flow.
var bulkBuffers = sync.Pool{New: func() any { return new([bulkCopy]byte) }}

// carry copies src to dst until src ends, telling moved of each piece that was read. When dst takes no more, carry reads on and discards, so that the
// sender is not held up by a window nobody opens; it returns the error of dst.
// It waits for input with a buffer of size first, and borrows a large one only while reads fill what they are given.
func carry(dst io.Writer, src io.Reader, first int, moved func(int)) error {
	small := make([]byte, first)
	buf := small
	var bulk *[bulkCopy]byte
	defer func() {
		if bulk != nil {
			bulkBuffers.Put(bulk)
		}
	}()
	var broken error
	for {
		n, err := src.Read(buf)
		if n > 0 {
			moved(n)
			if broken == nil {
				_, broken = dst.Write(buf[:n])
			}
		}
		if err != nil {
			return broken
		}
		switch {
		case bulk == nil && n == len(small):
			bulk, _ = bulkBuffers.Get().(*[bulkCopy]byte)
			buf = bulk[:]
		case bulk != nil && n <= len(small):
			bulkBuffers.Put(bulk)
			bulk, buf = nil, small
		}
	}
}
