package ssmproto

import (
	"context"
	"fmt"
	"net"
)

// DialPort opens the session of grant and gives one connection to its port, whatever kind of port session the document makes (SPEC.md §7.1): the
// Conn itself, or the only stream of a Mux. Closing it ends the session. Beside net.Conn it has CloseNow and Stats.
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
		_ = conn.CloseNow()
		return nil, err
	}
	only, err := mux.Open(ctx)
	if err != nil {
		_ = mux.CloseNow()
		return nil, err
	}
	return &onlyStream{stream: only.(*stream)}, nil
}

// PortProperties gives what the agent said of a Port session; zero for other sessions and where there was no handshake.
func (c *Conn) PortProperties() PortProperties {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.peer.port
}

// DisconnectPort ends the connection to the port and keeps the session: what is written next makes the agent connect again (SPEC.md §7.3). It is for
// port forwarding that is not Multiplexed; with AWS-StartSSHSession the session ends. It waits for room like Write.
func (c *Conn) DisconnectPort() error {
	if err := c.compose(PayloadFlag, FlagDisconnectToPort.Append(nil), true); err != nil {
		return fmt.Errorf("ssmproto: disconnect the port: %w", err)
	}
	return nil
}

// onlyStream is the one stream of a session that nobody else uses.
type onlyStream struct{ *stream }

// Close ends the stream and the session. The end of the stream goes out with the last data, before the session is ended.
func (s *onlyStream) Close() error {
	err := s.stream.Close()
	if muxErr := s.mux.Close(); err == nil {
		err = muxErr
	}
	return err
}

// Stats gives the present numbers of the session.
func (s *onlyStream) Stats() Stats { return s.mux.conn.Stats() }

// CloseNow ends the session at once.
func (s *onlyStream) CloseNow() error { return s.mux.CloseNow() }
