package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// delayLine is a TCP relay on loopback on which everything takes a while, each way, without becoming slower, or not faster than its rate: what a network does to
// plain ssh, and to a client's way to the gateway. The data channels have theirs from the emulator.
type delayLine struct {
	listener net.Listener
	to       string
	delay    time.Duration
	rate     float64 // bytes a second in each direction; without limit when zero
	wait     sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]struct{}
	closed bool
}

// A direction holds at most this much, which at 30 ms is far more than loopback moves.
const (
	delayPiece  = 32 << 10
	delayPieces = 1024
)

func startDelayLine(to string, delay time.Duration, rate float64) (*delayLine, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &delayLine{listener: listener, to: to, delay: delay, rate: rate, conns: map[net.Conn]struct{}{}}
	d.wait.Go(d.accept)
	return d, nil
}

// Addr is where to connect.
func (d *delayLine) Addr() *net.TCPAddr { return d.listener.Addr().(*net.TCPAddr) }

// Close ends all connections and returns when nothing is left running.
func (d *delayLine) Close() error {
	err := d.listener.Close()
	d.mu.Lock()
	d.closed = true
	for conn := range d.conns {
		_ = conn.Close()
	}
	d.mu.Unlock()
	d.wait.Wait()
	return err
}

func (d *delayLine) accept() {
	for {
		near, err := d.listener.Accept()
		if err != nil {
			return
		}
		d.wait.Go(func() { d.relay(near) })
	}
}

func (d *delayLine) relay(near net.Conn) {
	defer near.Close()
	time.Sleep(2 * d.delay) // opening a connection takes a round trip, which the client of a relay on loopback does not see
	far, err := net.Dial("tcp", d.to)
	if err != nil {
		return
	}
	defer far.Close()
	if !d.add(near, far) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { d.carry(far, near) })
	both.Go(func() { d.carry(near, far) })
	both.Wait()
	d.mu.Lock()
	delete(d.conns, near)
	delete(d.conns, far)
	d.mu.Unlock()
}

func (d *delayLine) add(conns ...net.Conn) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, conn := range conns {
		d.conns[conn] = struct{}{}
	}
	return !d.closed
}

// piece is some bytes and when they arrive.
type piece struct {
	bytes []byte
	due   time.Time
}

// takes is how long n bytes need to leave.
func (d *delayLine) takes(n int) time.Duration {
	if d.rate == 0 {
		return 0
	}
	return time.Duration(float64(n) / d.rate * float64(time.Second))
}

// carry moves one direction until its end, which travels with the same delay.
func (d *delayLine) carry(to, from net.Conn) {
	way := make(chan piece, delayPieces)
	var writer sync.WaitGroup
	writer.Go(func() {
		for p := range way {
			time.Sleep(time.Until(p.due))
			time.Sleep(d.takes(len(p.bytes)))
			if _, err := to.Write(p.bytes); err != nil {
				_ = from.Close() // ends the reader below
			}
		}
		_ = to.(*net.TCPConn).CloseWrite()
	})
	for {
		buf := make([]byte, delayPiece)
		n, err := from.Read(buf)
		if n > 0 {
			way <- piece{buf[:n], time.Now().Add(d.delay)}
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				_ = to.Close()
			}
			close(way)
			writer.Wait()
			return
		}
	}
}
