package agent

import (
	"context"
	"encoding/binary"
	"net"
	"sync"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// basicPort is a port session with one connection at a time and no framing: AWS-StartSSHSession, and port forwarding with a client or an agent that is too
// old to multiplex (SPEC.md §7.3, §7.4).
type basicPort struct {
	session *session
	to      *destination
	// redials is port forwarding: the end of a connection is not the end of the session, the next input dials again.
	redials   bool
	redialled chan struct{}

	mu    sync.Mutex
	conn  net.Conn // nil between two connections
	ended bool     // no more connections
}

// connect dials. The real agent does not survive a refusal.
func (p *basicPort) connect(ctx context.Context) error {
	if err := p.to.resolve(ctx); err != nil {
		return err
	}
	conn, err := p.to.dial(ctx)
	if err != nil {
		p.session.agent.log.Debug("the session worker crashes", "session", p.session.start.id, "err", err)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		return errCrashed
	}
	p.mu.Lock()
	p.conn = conn
	p.mu.Unlock()
	return nil
}

func (p *basicPort) serve(ctx context.Context) error {
	stop := context.AfterFunc(ctx, p.disconnect)
	defer stop()
	defer p.end()
	for {
		conn := p.current()
		if conn != nil {
			err := p.session.pump(ctx, conn, ssmproto.PayloadOutput)
			p.session.agent.log.Debug("destination ended", "session", p.session.start.id, "err", err)
			p.drop(conn)
		}
		if !p.redials || ctx.Err() != nil {
			return nil
		}
		select {
		case <-p.redialled:
		case <-ctx.Done():
			return nil
		}
	}
}

// input is called by the reader, which waits while the destination does not take the data.
func (p *basicPort) input(ctx context.Context, m ssmproto.Message) error {
	switch m.PayloadType {
	case ssmproto.PayloadOutput:
		conn, err := p.connection(ctx)
		if err != nil {
			return err
		}
		_, err = conn.Write(m.Payload)
		return err
	case ssmproto.PayloadFlag:
		p.flag(m.Payload)
	}
	return nil
}

func (p *basicPort) flag(payload []byte) {
	if len(payload) != lengthOfField {
		return
	}
	switch ssmproto.Flag(binary.BigEndian.Uint32(payload)) {
	case ssmproto.FlagDisconnectToPort:
		p.disconnect()
	case ssmproto.FlagTerminateSession:
		p.session.terminate()
	}
}

func (p *basicPort) current() net.Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conn
}

// connection is the one there is, or a new one where that is the custom.
func (p *basicPort) connection(ctx context.Context) (net.Conn, error) {
	if conn := p.current(); conn != nil {
		return conn, nil
	}
	if !p.redials {
		return nil, errNoPeer
	}
	conn, err := p.to.dial(ctx)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		_ = conn.Close()
		return nil, errNoPeer
	}
	p.conn = conn
	select {
	case p.redialled <- struct{}{}:
	default:
	}
	return conn, nil
}

func (p *basicPort) disconnect() { p.drop(p.current()) }

func (p *basicPort) end() {
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	p.disconnect()
}

// drop closes conn and forgets it, unless another one has taken its place.
func (p *basicPort) drop(conn net.Conn) {
	if conn == nil {
		return
	}
	_ = conn.Close()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.conn == conn {
		p.conn = nil
	}
}
