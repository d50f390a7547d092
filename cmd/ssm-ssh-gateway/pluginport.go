package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// forward listens where the document says, and leads each connection to the session's port, until the session ends or ctx does.
func (p *pluginSession) forward(ctx context.Context, properties ssmproto.PortProperties) error {
	p.say("\nStarting session with SessionId: %s\n", p.SessionID())
	listener, err := p.listen(ctx, properties)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = listener.Close() })
	defer stop()
	go func() { // ends with the session, which the caller closes
		<-p.Done()
		cancel()
	}()
	if p.Multiplexed() {
		err = p.forwardMany(ctx, listener)
	} else {
		err = p.forwardOne(ctx, listener)
	}
	if ended := p.Err(); ended != nil && !errors.Is(ended, io.EOF) && !errors.Is(ended, net.ErrClosed) { // the last is our own doing
		err = ended
	}
	p.say("\n\nExiting session with sessionId: %s.\n\n", p.SessionID())
	return err
}

// listen opens the port or unix socket of the document, on this machine only.
func (p *pluginSession) listen(ctx context.Context, properties ssmproto.PortProperties) (net.Listener, error) {
	spec := forwardSpec{network: "tcp", address: net.JoinHostPort("127.0.0.1", properties.LocalPortNumber)}
	if properties.LocalPortNumber == "" {
		spec.address = "127.0.0.1:0"
	}
	if properties.LocalConnectionType == "unix" {
		spec = forwardSpec{network: "unix", address: properties.LocalUnixSocket}
	}
	listener, err := listenLocal(ctx, &spec)
	if err != nil {
		return nil, err
	}
	if address, ok := listener.Addr().(*net.TCPAddr); ok {
		p.say("Port %d opened for sessionId %s.\n", address.Port, p.SessionID())
	} else {
		p.say("Unix socket %s opened for sessionId %s.\n", spec.address, p.SessionID())
	}
	p.say("Waiting for connections...\n")
	return listener, nil
}

// forwardMany serves connections side by side, as streams of the session. It owns the session from here on.
func (p *pluginSession) forwardMany(ctx context.Context, listener net.Listener) error {
	mux, err := ssmproto.NewMux(p.Conn)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	err = p.eachConnection(ctx, listener, func(near net.Conn) {
		far, err := mux.Open(ctx)
		if err != nil {
			_ = near.Close()
			return
		}
		all.Go(func() {
			if err := join(ctx, near, far, func(int) {}, func(int) {}); errors.Is(err, ssmproto.ErrConnectToPort) {
				p.say("\nConnection to destination port failed, check SSM Agent logs.\n")
			}
		})
	})
	all.Wait()
	if closing := mux.Close(); err == nil && !errors.Is(closing, ssmproto.ErrUndelivered) {
		err = closing
	}
	return err
}

// forwardOne serves one connection after the other, for agents that do not multiplex (SPEC.md §7.3).
func (p *pluginSession) forwardOne(ctx context.Context, listener net.Listener) error {
	return p.eachConnection(ctx, listener, func(near net.Conn) {
		stop := context.AfterFunc(ctx, func() { _ = near.Close() })
		defer stop()
		copied := make(chan struct{})
		go func() {
			defer close(copied)
			_, _ = io.Copy(near, p.Conn)
			_ = near.Close()
		}()
		_, _ = io.Copy(p.Conn, near)
		_ = p.SetReadDeadline(time.Now())
		<-copied
		_ = p.SetReadDeadline(time.Time{})
		_ = p.DisconnectPort() // fails with the session, whose end is noticed by itself
	})
}

// eachConnection accepts until ctx ends. The user hears of the first connection.
func (p *pluginSession) eachConnection(ctx context.Context, listener net.Listener, serve func(near net.Conn)) error {
	tell := sync.OnceFunc(func() { p.say("\nConnection accepted for session [%s]\n", p.SessionID()) })
	for {
		near, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil //nolint:nilerr // we closed it
			}
			return fmt.Errorf("listening on %s: %w", listener.Addr(), err)
		}
		tell()
		serve(near)
	}
}
