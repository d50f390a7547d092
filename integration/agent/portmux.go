package agent

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"sync"

	"github.com/xtaci/smux"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// muxPort is port forwarding with many connections in one session: the payloads of both directions are the byte streams of an smux connection, and
// every stream the client opens is a connection to the destination (SPEC.md §7.2).
type muxPort struct {
	session   *session
	to        *destination
	keepAlive bool

	fromClient *pipe // written by the reader, read by smux
	toClient   *pipe // written by smux, read by the pump
	streams    sync.WaitGroup
}

func (p *muxPort) connect(ctx context.Context) error {
	p.fromClient, p.toClient = newPipe(), newPipe()
	return p.to.resolve(ctx)
}

// input is called by the reader, which waits while smux takes nothing: one stream that nobody reads stops the whole session once 4 MiB are waiting.
func (p *muxPort) input(_ context.Context, m ssmproto.Message) error {
	switch m.PayloadType {
	case ssmproto.PayloadOutput:
		_, err := p.fromClient.Write(m.Payload)
		return err
	case ssmproto.PayloadFlag:
		if len(m.Payload) == lengthOfField && ssmproto.Flag(binary.BigEndian.Uint32(m.Payload)) == ssmproto.FlagTerminateSession {
			p.session.terminate()
		}
	}
	return nil
}

func (p *muxPort) serve(ctx context.Context) error {
	config := smux.DefaultConfig() // version 1 and the buffers of both reference sides
	config.KeepAliveDisabled = !p.keepAlive
	mux, err := smux.Server(&duplex{p.fromClient, p.toClient}, config)
	if err != nil {
		return err
	}
	pumped := make(chan struct{})
	go func() {
		defer close(pumped)
		_ = p.session.pump(ctx, p.toClient, ssmproto.PayloadOutput)
	}()
	stop := context.AfterFunc(ctx, func() { _ = mux.Close() })
	p.accept(ctx, mux)
	stop()
	_ = mux.Close() // ends the streams, and with the pipes the pump
	p.fromClient.close()
	p.toClient.close()
	p.streams.Wait()
	<-pumped
	return nil
}

// accept serves streams until the mux ends.
func (p *muxPort) accept(ctx context.Context, mux *smux.Session) {
	for {
		stream, err := mux.AcceptStream()
		if err != nil {
			return
		}
		p.open(ctx, stream)
	}
}

// open dials before the next stream is looked at. A refusal is a flag that does not say which stream it means, and then the stream's end.
func (p *muxPort) open(ctx context.Context, stream *smux.Stream) {
	conn, err := p.to.dial(ctx)
	if err != nil {
		p.session.agent.log.Debug("stream refused", "session", p.session.start.id, "err", err)
		p.session.channel.send(ssmproto.PayloadFlag, binary.BigEndian.AppendUint32(nil, uint32(ssmproto.FlagConnectToPortError)))
		_ = stream.Close()
		return
	}
	p.streams.Go(func() { join(ctx, stream, conn) })
}

// join copies both ways until either side has ended: smux has no half-close, and the agent closes the destination fully on the client's FIN.
func join(ctx context.Context, stream *smux.Stream, conn net.Conn) {
	end := func() {
		_ = stream.Close()
		_ = conn.Close()
	}
	stop := context.AfterFunc(ctx, end)
	defer stop()
	var upward sync.WaitGroup
	upward.Go(func() {
		_, _ = io.Copy(conn, stream)
		end()
	})
	_, _ = io.Copy(stream, conn)
	end()
	upward.Wait()
}

// duplex joins two pipes to what smux wants.
type duplex struct{ in, out *pipe }

func (d *duplex) Read(b []byte) (int, error)  { return d.in.Read(b) }
func (d *duplex) Write(b []byte) (int, error) { return d.out.Write(b) }

func (d *duplex) Close() error {
	d.in.close()
	d.out.close()
	return nil
}
