package instance

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

const dialLimit = 30 * time.Second

// forwards are the listeners that one connection asked for, by network and address as asked.
type forwards struct {
	mu        sync.Mutex
	closed    bool
	listeners map[string]net.Listener
}

var errForwards = errors.New("too many listeners, or the connection is ending")

func (f *forwards) add(name string, l net.Listener) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed || len(f.listeners) >= maxForwards || f.listeners[name] != nil {
		_ = l.Close()
		return errForwards
	}
	f.listeners[name] = l
	return nil
}

func (f *forwards) remove(name string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.listeners[name]
	if ok {
		delete(f.listeners, name)
		_ = l.Close()
	}
	return ok
}

func (f *forwards) closeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
	for name, l := range f.listeners {
		_ = l.Close()
		delete(f.listeners, name)
	}
}

// Payloads of RFC 4254 §7 and of OpenSSH's PROTOCOL §2.4.
type (
	directTCP struct {
		Host       string
		Port       uint32
		OriginHost string
		OriginPort uint32
	}
	forwardTCP struct {
		Host string
		Port uint32
	}
	directUnix struct {
		Path     string
		Reserved string
		Number   uint32
	}
	forwardedUnix struct {
		Path     string
		Reserved string
	}
)

func (c *connection) serveDirectTCP(_ *ssh.ServerConn, open ssh.NewChannel) {
	var to directTCP
	if err := ssh.Unmarshal(open.ExtraData(), &to); err != nil {
		_ = open.Reject(ssh.ConnectionFailed, "malformed direct-tcpip request")
		return
	}
	c.dialAndJoin(open, "tcp", net.JoinHostPort(to.Host, strconv.FormatUint(uint64(to.Port), 10)))
}

func (c *connection) serveDirectUnix(_ *ssh.ServerConn, open ssh.NewChannel) {
	var to directUnix
	if err := ssh.Unmarshal(open.ExtraData(), &to); err != nil {
		_ = open.Reject(ssh.ConnectionFailed, "malformed direct-streamlocal request")
		return
	}
	c.dialAndJoin(open, "unix", to.Path)
}

func (c *connection) dialAndJoin(open ssh.NewChannel, network, addr string) {
	ctx, cancel := context.WithTimeout(c.ctx, dialLimit)
	defer cancel()
	var dialer net.Dialer
	target, err := dialer.DialContext(ctx, network, addr)
	if err != nil {
		_ = open.Reject(ssh.ConnectionFailed, err.Error())
		return
	}
	defer target.Close()
	channel, reqs, err := open.Accept()
	if err != nil {
		return
	}
	if target, ok := target.(closeWriter); ok {
		c.join(channel, reqs, target)
	}
}

// join copies both ways until both directions have ended or the connection does; each end of file travels by itself.
func (c *connection) join(channel ssh.Channel, reqs <-chan *ssh.Request, target closeWriter) {
	stop := context.AfterFunc(c.ctx, func() { _ = target.Close() })
	defer stop()
	var wait, copies sync.WaitGroup
	wait.Go(func() { ssh.DiscardRequests(reqs) })
	copies.Go(func() {
		if _, err := io.Copy(target, channel); err != nil {
			_ = channel.Close() // a target that takes no more is gone: nothing would end the other direction
			_ = target.Close()
		}
		_ = target.CloseWrite()
	})
	copies.Go(func() {
		_, _ = io.Copy(channel, target)
		_ = channel.CloseWrite()
	})
	copies.Wait()
	_ = channel.Close()
	_ = target.Close()
	wait.Wait()
}

func (c *connection) listenTCP(conn *ssh.ServerConn, req *ssh.Request) (bool, []byte) {
	var at forwardTCP
	if err := ssh.Unmarshal(req.Payload, &at); err != nil {
		return false, nil
	}
	// Like sshd with GatewayPorts no: whatever address is asked for, only this machine's loopback listens.
	l, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.FormatUint(uint64(at.Port), 10)))
	if err != nil {
		return false, nil
	}
	tcp, ok := l.Addr().(*net.TCPAddr)
	if !ok {
		_ = l.Close()
		return false, nil
	}
	asked := at.Port
	at.Port = uint32(tcp.Port)
	if err := c.forwards.add(tcpName(at), l); err != nil {
		return false, nil
	}
	c.acceptForwards(conn, l, "forwarded-tcpip", func(from net.Conn) []byte {
		origin := directTCP{Host: at.Host, Port: at.Port}
		if remote, ok := from.RemoteAddr().(*net.TCPAddr); ok {
			origin.OriginHost, origin.OriginPort = remote.IP.String(), uint32(remote.Port)
		}
		return ssh.Marshal(&origin)
	})
	if asked != 0 {
		return true, nil
	}
	return true, ssh.Marshal(&struct{ Port uint32 }{at.Port})
}

func (c *connection) cancelTCP(_ *ssh.ServerConn, req *ssh.Request) (bool, []byte) {
	var at forwardTCP
	if err := ssh.Unmarshal(req.Payload, &at); err != nil {
		return false, nil
	}
	return c.forwards.remove(tcpName(at)), nil
}

func tcpName(at forwardTCP) string {
	return "tcp " + net.JoinHostPort(at.Host, strconv.FormatUint(uint64(at.Port), 10))
}

func (c *connection) listenUnix(conn *ssh.ServerConn, req *ssh.Request) (bool, []byte) {
	var at struct{ Path string }
	if err := ssh.Unmarshal(req.Payload, &at); err != nil {
		return false, nil
	}
	if info, err := os.Lstat(at.Path); err == nil && info.Mode()&os.ModeSocket != 0 {
		_ = os.Remove(at.Path) // StreamLocalBindUnlink yes, as the real instance is configured
	}
	l, err := net.Listen("unix", at.Path)
	if err != nil {
		return false, nil
	}
	if err := c.forwards.add("unix "+at.Path, l); err != nil {
		return false, nil
	}
	c.acceptForwards(conn, l, "forwarded-streamlocal@openssh.com", func(net.Conn) []byte {
		return ssh.Marshal(&forwardedUnix{Path: at.Path})
	})
	return true, nil
}

func (c *connection) cancelUnix(_ *ssh.ServerConn, req *ssh.Request) (bool, []byte) {
	var at struct{ Path string }
	if err := ssh.Unmarshal(req.Payload, &at); err != nil {
		return false, nil
	}
	return c.forwards.remove("unix " + at.Path), nil
}

// acceptForwards hands every connection that arrives at l to the client, as a channel of the given type.
func (c *connection) acceptForwards(conn *ssh.ServerConn, l net.Listener, channelType string, payload func(net.Conn) []byte) {
	_ = c.run(func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			if !c.run(func() { c.forwardOne(conn, from, channelType, payload(from)) }) {
				_ = from.Close()
			}
		}
	})
}

func (c *connection) forwardOne(conn *ssh.ServerConn, from net.Conn, channelType string, payload []byte) {
	defer from.Close()
	select {
	case c.slots <- struct{}{}:
		defer func() { <-c.slots }()
	default:
		return
	}
	channel, reqs, err := conn.OpenChannel(channelType, payload)
	if err != nil {
		return
	}
	if target, ok := from.(closeWriter); ok {
		c.join(channel, reqs, target)
	}
}
