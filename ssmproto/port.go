package ssmproto

import (
	"context"
	"errors"
	"net"
)

// DialPort opens a session to a port and gives the one connection that most callers want: the session itself or, where client and agent multiplex
// (SPEC.md §7.2), a stream of it. Closing the connection ends the session. Use Dial and NewMux for many connections in one session.
func DialPort(ctx context.Context, grant Grant, options *Options) (net.Conn, error) {
	conn, err := Dial(ctx, grant, options)
	if err != nil {
		return nil, err
	}
	if !conn.Multiplexed() {
		return conn, nil
	}
	mux, err := NewMux(conn)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	stream, err := mux.Open(ctx)
	if err != nil {
		return nil, errors.Join(err, mux.Close())
	}
	return &onlyStream{Conn: stream, mux: mux}, nil
}

// onlyStream is the single stream of a session that ends with it.
type onlyStream struct {
	net.Conn
	mux *Mux
}

// Close ends the stream, and the session after it.
func (s *onlyStream) Close() error { return errors.Join(s.Conn.Close(), s.mux.Close()) }
