package ssmproto

import (
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// lowWater asks the kernel.
func lowWater(t *testing.T, m *mark) (size int) {
	t.Helper()
	var failed error
	err := m.raw.Control(func(fd uintptr) {
		size, failed = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_RCVLOWAT)
	})
	if err = errors.Join(err, failed); err != nil {
		t.Fatal(err)
	}
	return size
}

// gathering is a gatherer over TCP in the middle of a drip, and the other end.
func gathering(t *testing.T) (*gatherer, net.Conn) {
	t.Helper()
	near, far := testkit.TCPPair(t)
	g := &gatherer{Conn: near, mark: markOf(near), idle: func(time.Time) about { return about{bulk: gatherShare * shortGather} }, frames: dripFrames}
	g.drip.begin()
	g.last.ended = time.Now()
	g.drip.last = g.last.ended
	return g, far
}

func mustSend(t *testing.T, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
}

// TestBulkThatStopsBelowTheMark is delivered, and so is what comes when nobody waits for it any more: a byte must not depend on those behind it.
func TestBulkThatStopsBelowTheMark(t *testing.T) {
	g, far := gathering(t)
	buf := make([]byte, 100)
	for reads := range 3 { // the third is no drip any more
		mustSend(t, far, "x")
		n, err := g.Read(buf)
		equal(t, "read", string(buf[:n]), "x")
		equal(t, "error", err, nil)
		if reads == 0 {
			equal(t, "wait in a drip", g.drip.wait, shortGather)
		}
	}
	equal(t, "wait", g.drip.wait, noGather)
	mustSend(t, far, "y")
	n, err := g.Read(buf)
	equal(t, "read", string(buf[:n]), "y")
	equal(t, "error", err, nil)
	equal(t, "low-water mark outside of a drip", lowWater(t, &g.mark), 1)
}

// TestAWaitWithoutAnythingLowersTheMark, or the read that follows would wait for 32 KiB.
func TestAWaitWithoutAnythingLowersTheMark(t *testing.T) {
	g, far := gathering(t)
	equal(t, "raised", g.mark.raise(), true)
	got := make(chan string, 1)
	go func() {
		buf := make([]byte, 100)
		n, err := g.Read(buf)
		if err != nil {
			t.Error(err)
		}
		equal(t, "wait in a drip", g.drip.wait, shortGather)
		got <- string(buf[:n])
	}()
	testkit.Eventually(t, "an ordinary socket", func() bool { return lowWater(t, &g.mark) == 1 })
	mustSend(t, far, "x")
	equal(t, "read", testkit.Receive(t, got, "the byte"), "x")
}

// TestEndsAreSeenInADrip, the polite one, the other and our own.
func TestEndsAreSeenInADrip(t *testing.T) {
	for _, c := range []struct {
		name string
		end  func(near, far net.Conn) error
		want error
	}{
		{"the peer closes", func(_, far net.Conn) error { return far.Close() }, io.EOF},
		{"the peer breaks off", func(_, far net.Conn) error {
			return errors.Join(far.(*net.TCPConn).SetLinger(0), far.Close())
		}, syscall.ECONNRESET},
		{"we close", func(near, _ net.Conn) error { return near.Close() }, net.ErrClosed},
	} {
		t.Run(c.name, func(t *testing.T) {
			g, far := gathering(t)
			if !g.mark.raise() {
				t.Fatal("no low-water mark")
			}
			if err := c.end(g.Conn, far); err != nil {
				t.Fatal(err)
			}
			failed := make(chan error, 1)
			go func() {
				_, err := g.Read(make([]byte, 100))
				failed <- err
			}()
			if err := testkit.Receive(t, failed, "the end"); !errors.Is(err, c.want) {
				t.Errorf("error %v, want %v", err, c.want)
			}
			equal(t, "wait in a drip", g.drip.wait, shortGather)
		})
	}
}

// TestTheMarkIsTheKernels: below it the socket is not readable for poll, and a read gives what is there.
func TestTheMarkIsTheKernels(t *testing.T) {
	g, far := gathering(t)
	equal(t, "raised", g.mark.raise(), true)
	equal(t, "low-water mark", lowWater(t, &g.mark), gatherMark)
	buf := make([]byte, 100)
	n, err := g.mark.read(buf)
	equal(t, "read of nothing", n, 0)
	equal(t, "error", err, nil)
	mustSend(t, far, "x")
	testkit.Eventually(t, "the byte below the mark", func() bool {
		n, err = g.mark.read(buf)
		return n > 0 || err != nil
	})
	equal(t, "read", string(buf[:n]), "x")
	g.mark.lower()
	equal(t, "lowered", lowWater(t, &g.mark), 1)
}

// TestOtherConnectionsHaveNoMark and are read as ever.
func TestOtherConnectionsHaveNoMark(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	m := markOf(near)
	equal(t, "raised", m.raise(), false)
	m.lower()
}
