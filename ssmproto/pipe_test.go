package ssmproto

import (
	"bytes"
	"context"
	"errors"
	"net"
	"sync"
)

// pipeListener is a network in memory.
type pipeListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newPipeListener() *pipeListener {
	return &pipeListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *pipeListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *pipeListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *pipeListener) Addr() net.Addr { return Addr{"fake"} }

func (l *pipeListener) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	near, far := net.Pipe()
	buffered := newBufferedEnd(far)
	select {
	case l.conns <- buffered:
		return near, nil
	case <-l.done:
		return nil, errors.Join(errors.New("nobody listens"), buffered.Close())
	case <-ctx.Done():
		return nil, errors.Join(ctx.Err(), buffered.Close())
	}
}

// socketPieces is how many writes a bufferedEnd holds that the other end has not read.
const socketPieces = 256

// bufferedEnd is the server's end of a pipe. It takes what is written while the other end does something else, as the kernel does: a client that lets messages
// come together must not hold up a server that also reads.
type bufferedEnd struct {
	net.Conn
	pieces chan []byte
	closed chan struct{}
	once   sync.Once
}

func newBufferedEnd(conn net.Conn) *bufferedEnd {
	b := &bufferedEnd{Conn: conn, pieces: make(chan []byte, socketPieces), closed: make(chan struct{})}
	go b.deliver() // until Close, or the other end's
	return b
}

// deliver writes what was written before Close, as long as the other end takes it.
func (b *bufferedEnd) deliver() {
	defer b.Conn.Close()
	for {
		select {
		case p := <-b.pieces:
			if _, err := b.Conn.Write(p); err != nil {
				return
			}
			continue
		default:
		}
		select {
		case p := <-b.pieces:
			if _, err := b.Conn.Write(p); err != nil {
				return
			}
		case <-b.closed:
			return
		}
	}
}

// Write waits while the buffer is full.
func (b *bufferedEnd) Write(p []byte) (int, error) {
	select {
	case <-b.closed:
		return 0, net.ErrClosed
	default:
	}
	select {
	case b.pieces <- bytes.Clone(p):
		return len(p), nil
	case <-b.closed:
		return 0, net.ErrClosed
	}
}

// Close lets what was written reach the other end. It does not wait for that.
func (b *bufferedEnd) Close() error {
	b.once.Do(func() { close(b.closed) })
	return nil
}
