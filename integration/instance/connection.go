package instance

import (
	"context"
	"log/slog"
	"net"
	"sync"

	gliderssh "github.com/gliderlabs/ssh"
	"golang.org/x/crypto/ssh"
)

// connection is one client of an embedded instance; the handlers of its channels and requests are methods.
type connection struct {
	server   *server
	ctx      context.Context // ends with the connection
	log      *slog.Logger
	slots    chan struct{} // one for every open channel
	forwards forwards

	mu    sync.Mutex
	ended bool
	wait  sync.WaitGroup
}

// enter counts one more task of the connection; it is false when the connection is ending, because the library starts handlers in goroutines
// that may first run after it has returned.
func (c *connection) enter() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.ended {
		c.wait.Add(1)
	}
	return !c.ended
}

// run starts task in a goroutine that end waits for.
func (c *connection) run(task func()) bool {
	if !c.enter() {
		return false
	}
	go func() {
		defer c.wait.Done()
		task()
	}()
	return true
}

// end waits for everything the connection has started. Its context must have ended.
func (c *connection) end() {
	c.mu.Lock()
	c.ended = true
	c.mu.Unlock()
	c.forwards.closeAll()
	c.wait.Wait()
}

func (c *connection) channelHandlers() map[string]gliderssh.ChannelHandler {
	return map[string]gliderssh.ChannelHandler{
		"session":                        c.guard(c.serveSession),
		"direct-tcpip":                   c.guard(c.serveDirectTCP),
		"direct-streamlocal@openssh.com": c.guard(c.serveDirectUnix),
		"default":                        c.guard(refuseChannel),
	}
}

type channelHandler func(conn *ssh.ServerConn, open ssh.NewChannel)

// guard bounds the channels of a connection and lets the connection wait for them. The library runs each handler in a goroutine of its own.
func (c *connection) guard(handle channelHandler) gliderssh.ChannelHandler {
	return func(_ *gliderssh.Server, conn *ssh.ServerConn, open ssh.NewChannel, _ gliderssh.Context) {
		if !c.enter() {
			return
		}
		defer c.wait.Done()
		select {
		case c.slots <- struct{}{}:
			defer func() { <-c.slots }()
			handle(conn, open)
		default:
			_ = open.Reject(ssh.ResourceShortage, "too many open channels")
		}
	}
}

func refuseChannel(_ *ssh.ServerConn, open ssh.NewChannel) {
	_ = open.Reject(ssh.UnknownChannelType, "unknown channel type")
}

func (c *connection) requestHandlers() map[string]gliderssh.RequestHandler {
	handlers := map[string]gliderssh.RequestHandler{
		"default": func(gliderssh.Context, *gliderssh.Server, *ssh.Request) (bool, []byte) { return false, nil },
	}
	for name, handle := range map[string]func(*ssh.ServerConn, *ssh.Request) (bool, []byte){
		"tcpip-forward":                          c.listenTCP,
		"cancel-tcpip-forward":                   c.cancelTCP,
		"streamlocal-forward@openssh.com":        c.listenUnix,
		"cancel-streamlocal-forward@openssh.com": c.cancelUnix,
	} {
		handlers[name] = func(ctx gliderssh.Context, _ *gliderssh.Server, req *ssh.Request) (bool, []byte) {
			conn, ok := ctx.Value(gliderssh.ContextKeyConn).(*ssh.ServerConn)
			if !ok {
				return false, nil
			}
			return handle(conn, req)
		}
	}
	return handlers
}

// closeWriter is what TCP, Unix sockets and SSH channels share: each direction ends by itself.
type closeWriter interface {
	net.Conn
	CloseWrite() error
}
