package ssmproto

import (
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"
)

// TestAnAnswerIsKnownBehindItsAcknowledgement as the agent sends them: the acknowledgement of a question comes first.
func TestAnAnswerIsKnownBehindItsAcknowledgement(t *testing.T) {
	c := newConn(Grant{}, Options{})
	settle := func(data bool) bool {
		c.news.data = data
		return c.settle(epoch).answers
	}
	equal(t, "data that nobody asked for", settle(true), false)
	c.send.unsent++
	equal(t, "an acknowledgement", settle(false), false)
	equal(t, "the answer behind it", settle(true), true)
	equal(t, "more of it", settle(true), false)
}

// pieces is a connection that gives one piece per read, at its time.
type pieces struct {
	net.Conn
	every time.Duration
	began time.Time
	left  []byte
	given int
	reads int
}

// Read gives all that has arrived so far, waiting for the first piece of 100 bytes.
func (p *pieces) Read(b []byte) (int, error) {
	p.reads++
	for {
		arrived := min(100*int(time.Since(p.began)/p.every), len(p.left))
		if n := copy(b, p.left[p.given:arrived]); n > 0 {
			p.given += n
			return n, nil
		}
		if p.given == len(p.left) {
			return 0, io.EOF
		}
		time.Sleep(p.every)
	}
}

// TestGatheringKeepsEveryByte reads a drip through the smallest of buffers, and counts what it costs.
func TestGatheringKeepsEveryByte(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		text := make([]byte, 100*1000)
		for i := range text {
			text[i] = byte(i * 7 / 5)
		}
		p := &pieces{every: time.Millisecond, began: time.Now(), left: text}
		idle := 0
		g := &gatherer{Conn: p, idle: func(time.Time) about { idle++; return about{bulk: time.Hour} }}
		var got []byte
		small := make([]byte, 333)
		for {
			n, err := g.Read(small)
			got = append(got, small[:n]...)
			g.frames = len(got)/100 - (len(got)-n)/100 + g.frames
			if err != nil {
				equal(t, "end", err, io.EOF)
				break
			}
		}
		equal(t, "text", string(got), string(text))
		if limit := len(text)/100/5 + 2*dripRun; p.reads > limit {
			t.Errorf("%d reads for 1000 pieces, want at most %d", p.reads, limit)
		}
		equal(t, "times told before a read", idle, p.reads)
	})
}

func TestGathererReadsAheadAndGivesTheBufferBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pieces{every: 10 * time.Microsecond, began: time.Now().Add(-time.Hour), left: make([]byte, 300_000)}
		g := &gatherer{Conn: p}
		n, err := io.CopyBuffer(io.Discard, struct{ io.Reader }{io.LimitReader(g, 300_000)}, make([]byte, usualRead))
		equal(t, "error", err, nil)
		equal(t, "bytes", n, 300_000)
		if p.reads > 7 {
			t.Errorf("%d reads for 300,000 bytes that were there", p.reads)
		}
		_, err = g.Read(make([]byte, usualRead))
		equal(t, "end", err, io.EOF)
		if _, err = g.Read(make([]byte, usualRead)); g.bulk != nil {
			t.Errorf("a connection that has no more keeps the large buffer (%v)", err)
		}
	})
}

func TestCoarseDeadline(t *testing.T) {
	d := coarseDeadline{step: time.Second}
	equal(t, "first", d.moves(epoch), true)
	equal(t, "a little later", d.moves(epoch.Add(999*time.Millisecond)), false)
	equal(t, "a step later", d.moves(epoch.Add(time.Second)), true)
	equal(t, "earlier", d.moves(epoch), true)
	equal(t, "none", d.moves(time.Time{}), true)
	equal(t, "one again", d.moves(epoch), true)
}
