package main

import (
	"io"
	"os"
	"time"
)

// aheadTime is how much of what the session carries may wait here in front of it, in each of two places: what this program has read, and what the pipe holds
// behind that. A key that is typed on the same SSH connection as an upload waits for all of it.
const aheadTime = 5 * time.Millisecond

// Bounds of readAhead, in bytes: a page, and what io.Copy takes.
const (
	leastAhead = 4 << 10
	mostAhead  = 32 << 10
)

// What ssmproto.Options make of zero.
const (
	usualPayload = 1024
	usualRate    = 900
)

// readAhead is aheadTime in bytes, for messages of so many bytes at so many a second; zero is the usual.
func readAhead(payload, rate int) int {
	if rate == 0 {
		rate = usualRate
	}
	perSecond := int64(max(payload, usualPayload)) * int64(rate)
	return int(min(max(perSecond*int64(aheadTime)/int64(time.Second), leastAhead), mostAhead))
}

// copyShallow copies in to out, at most ahead bytes at a time, and keeps a pipe from holding much more, where the system lets it.
func copyShallow(out io.Writer, in io.Reader, ahead int) error {
	if file, ok := in.(*os.File); ok && ahead < mostAhead {
		limitPipe(file, ahead)
	}
	// Only the methods named here: a file's own WriteTo brings a buffer of its own.
	_, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, ahead))
	return err
}
