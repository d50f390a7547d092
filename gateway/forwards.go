package gateway

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// tcpOpen is the payload of direct-tcpip and forwarded-tcpip (RFC 4254 §7.2). For the first, host and port are where to connect to;
// for the second, what was listened on.
type tcpOpen struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// socketOpen is the payload of direct-streamlocal@openssh.com; forwarded-streamlocal@openssh.com has the reserved string only (OpenSSH PROTOCOL §2.4).
type socketOpen struct {
	Path string
	Rest []byte `ssh:"rest"`
}

// tcpListen is the payload of tcpip-forward and its cancel (RFC 4254 §7.1).
type tcpListen struct {
	Host string
	Port uint32
}

// maxPort is the highest TCP port; the wire has room for more.
const maxPort = 65535

var errMalformed = errors.New("malformed message")

// readTCP reads a payload into info.
func readTCP(info *channelInfo, payload []byte) error {
	var open tcpOpen
	if err := ssh.Unmarshal(payload, &open); err != nil || open.Port > maxPort || open.OriginPort > maxPort {
		return &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: errMalformed.Error()}
	}
	info.host, info.port = open.Host, int(open.Port)
	if open.OriginHost != "" {
		info.origin = net.JoinHostPort(open.OriginHost, strconv.Itoa(int(open.OriginPort)))
	}
	return nil
}

func readSocket(info *channelInfo, payload []byte) error {
	var open socketOpen
	if err := ssh.Unmarshal(payload, &open); err != nil {
		return &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: errMalformed.Error()}
	}
	info.host = open.Path
	return nil
}

// judgeDirectTCP: -L, -D, -W. The machine dials; the gateway never does.
func judgeDirectTCP(b *bridge, info *channelInfo, payload []byte) error {
	if err := readTCP(info, payload); err != nil {
		return err
	}
	g := b.cfg.grants
	if !g.PortForwarding || !mayOpen(g.PermitOpen, info.host, info.port) {
		return notGranted("a connection to " + info.destination())
	}
	return b.cfg.gate.permit(authz.ActionForwardLocal, info.host, info.port)
}

// judgeDirectSocket: -L to a unix socket. PermitOpen lists hosts and ports, so where it is set no socket is on it.
func judgeDirectSocket(b *bridge, info *channelInfo, payload []byte) error {
	if err := readSocket(info, payload); err != nil {
		return err
	}
	g := b.cfg.grants
	if !g.PortForwarding || g.PermitOpen != nil {
		return notGranted("a connection to " + info.host)
	}
	return b.cfg.gate.permit(authz.ActionForwardLocal, info.host, 0)
}

// judgeForwardedTCP lets in only what this very connection asked to listen on.
func judgeForwardedTCP(b *bridge, info *channelInfo, payload []byte) error {
	if err := readTCP(info, payload); err != nil {
		return err
	}
	return b.forwards.admits(b.ctx, bind{host: info.host, port: uint32(info.port)})
}

func judgeForwardedSocket(b *bridge, info *channelInfo, payload []byte) error {
	if err := readSocket(info, payload); err != nil {
		return err
	}
	return b.forwards.admits(b.ctx, bind{host: info.host, socket: true})
}

// judgeAgent: the agent is the person's; the machine gets at it only through a connection that offered it.
func judgeAgent(b *bridge, _ *channelInfo, _ []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return unlessAsked(b.agentAllowed)
}

// judgeX11 is the same for the person's screen.
func judgeX11(b *bridge, info *channelInfo, payload []byte) error {
	var open struct {
		Host string
		Port uint32
	}
	if err := ssh.Unmarshal(payload, &open); err == nil {
		info.origin = net.JoinHostPort(open.Host, strconv.FormatUint(uint64(open.Port), 10))
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return unlessAsked(b.x11Allowed)
}

func unlessAsked(asked bool) error {
	if asked {
		return nil
	}
	return &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: "not requested on this connection"}
}

// bind is what a remote forward listens on: an address and port as the client wrote them, or a path.
type bind struct {
	host   string
	port   uint32
	socket bool
}

// String is host:port or the path.
func (b bind) String() string {
	if b.socket {
		return b.host
	}
	return net.JoinHostPort(b.host, strconv.FormatUint(uint64(b.port), 10))
}

// remoteForward is a listener on the machine that the client asked for.
type remoteForward struct {
	bind
	anyPort bool          // asked for port 0, and the port given is not known (yet)
	settled chan struct{} // closed when the client has the answer
}

// covers reports whether an open that names at may belong to f. sshd repeats the address it was asked for; others name the address they bound, so
// any two names for all addresses, and any two for the loopback, are one.
func (f *remoteForward) covers(at bind) bool {
	if f.socket != at.socket {
		return false
	}
	if f.socket {
		return f.host == at.host
	}
	return (f.anyPort || f.port == at.port) && addressClass(f.host) == addressClass(at.host)
}

// addressClass names an address for comparison (RFC 4254 §7.1 lists the special ones).
func addressClass(host string) string {
	switch host {
	case "", "*", "0.0.0.0", "::":
		return "*"
	case "localhost", "127.0.0.1", "::1":
		return "localhost"
	}
	return strings.ToLower(host)
}

// forwardTable knows the listeners of one client connection.
type forwardTable struct {
	limit int

	mu   sync.Mutex
	list []*remoteForward
}

// add records a forward before the machine is asked for it, because its first connection may overtake the machine's answer.
func (t *forwardTable) add(f *remoteForward) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.list) >= t.limit {
		return false
	}
	t.list = append(t.list, f)
	return true
}

func (t *forwardTable) remove(f *remoteForward) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.list = slices.DeleteFunc(t.list, func(g *remoteForward) bool { return g == f })
}

// find gives the forward that a cancel names, or nil.
func (t *forwardTable) find(at bind) *remoteForward {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.list {
		if f.bind == at {
			return f
		}
	}
	return nil
}

// setPort records the port that the machine chose.
func (t *forwardTable) setPort(f *remoteForward, port uint32) {
	t.mu.Lock()
	defer t.mu.Unlock()
	f.port, f.anyPort = port, false
}

// admits waits until the client has been told that the forward it asked for exists, because a client refuses connections for a port it does not know of
// yet; and refuses what no forward covers.
func (t *forwardTable) admits(ctx context.Context, at bind) error {
	for {
		settled, covered := t.cover(at)
		if !covered || settled == nil {
			return unlessAsked(covered)
		}
		select {
		case <-settled:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// cover reports whether a forward covers at and, if it is not settled yet, what to wait for.
func (t *forwardTable) cover(at bind) (settled <-chan struct{}, covered bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, f := range t.list {
		switch {
		case !f.covers(at):
		case closedAlready(f.settled):
			return nil, true
		default:
			settled, covered = f.settled, true
		}
	}
	return settled, covered
}

// readBind reads the payload of a forward request or its cancel.
func readBind(req *ssh.Request) (bind, error) {
	if strings.Contains(req.Type, "streamlocal") {
		var socket struct{ Path string }
		if err := ssh.Unmarshal(req.Payload, &socket); err != nil {
			return bind{}, fmt.Errorf("reading %s: %w", req.Type, err)
		}
		return bind{host: socket.Path, socket: true}, nil
	}
	var listen tcpListen
	if err := ssh.Unmarshal(req.Payload, &listen); err != nil {
		return bind{}, fmt.Errorf("reading %s: %w", req.Type, err)
	}
	if listen.Port > maxPort {
		return bind{}, fmt.Errorf("reading %s: port %d: %w", req.Type, listen.Port, errMalformed)
	}
	return bind{host: listen.Host, port: listen.Port}, nil
}

// startForward treats tcpip-forward and streamlocal-forward@openssh.com: judge, record, relay, and give back the answer with its payload, which for port 0
// is the port.
func (b *bridge) startForward(req *ssh.Request) {
	at, err := readBind(req)
	if err == nil {
		err = b.judgeListen(at)
	}
	b.cfg.watch.globalRequest(req.Type, at.String(), err == nil)
	if err != nil {
		b.refuseGlobal(req, err)
		return
	}
	via, err := b.laneFor(req.Type)
	if err != nil {
		b.refuseGlobal(req, err)
		return
	}
	f := &remoteForward{bind: at, anyPort: !at.socket && at.port == 0, settled: make(chan struct{})}
	defer close(f.settled)
	if !b.forwards.add(f) {
		b.refuseGlobal(req, errors.New("too many remote forwards"))
		return
	}
	ok, answer, err := via.conn.SendRequest(req.Type, req.WantReply, req.Payload)
	if err != nil || !ok && req.WantReply {
		b.forwards.remove(f)
	} else if f.anyPort && len(answer) >= 4 {
		var given struct {
			Port uint32
			Rest []byte `ssh:"rest"`
		}
		if ssh.Unmarshal(answer, &given) == nil {
			b.forwards.setPort(f, given.Port)
		}
	}
	_ = req.Reply(ok && err == nil, answer)
}

// judgeListen asks grants and policy about a remote forward.
func (b *bridge) judgeListen(at bind) error {
	g := b.cfg.grants
	if !g.PortForwarding || !mayListen(g.PermitListen, at) {
		return notGranted("listening on " + at.String())
	}
	return b.cfg.gate.permit(authz.ActionForwardRemote, at.host, int(at.port))
}

// cancelForward forgets the listener and relays. Only what this connection started can be canceled; OpenSSH wants no answer.
func (b *bridge) cancelForward(req *ssh.Request) {
	at, err := readBind(req)
	f := b.forwards.find(at)
	b.cfg.watch.globalRequest(req.Type, at.String(), f != nil)
	if err != nil || f == nil {
		_ = req.Reply(false, nil)
		return
	}
	via, err := b.laneFor(req.Type)
	if err != nil {
		b.refuseGlobal(req, err)
		return
	}
	ok, answer, err := via.conn.SendRequest(req.Type, req.WantReply, req.Payload)
	if ok || !req.WantReply {
		b.forwards.remove(f)
	}
	_ = req.Reply(ok && err == nil, answer)
}

// refuseGlobal refuses; the protocol has no room for a reason, so it is in the log.
func (b *bridge) refuseGlobal(req *ssh.Request, err error) {
	b.cfg.log.Info("global request refused", "request", req.Type, "err", err)
	_ = req.Reply(false, nil)
}

// mayOpen matches permitopen="host:port": a literal host or "*", a port or "*" (sshd(8)). nil permits everything.
func mayOpen(permits []string, host string, port int) bool {
	if permits == nil {
		return true
	}
	return slices.ContainsFunc(permits, func(permit string) bool {
		wantHost, wantPort, ok := splitPermit(permit)
		return ok && (wantHost == "*" || strings.EqualFold(wantHost, host)) && portMatches(wantPort, port)
	})
}

// mayListen matches permitlisten="[host:]port": the host may have wildcards and is the loopback when left out (sshd(8)). nil permits everything; a list
// names ports, so it permits no unix socket.
func mayListen(permits []string, at bind) bool {
	if permits == nil {
		return true
	}
	if at.socket {
		return false
	}
	return slices.ContainsFunc(permits, func(permit string) bool {
		if !strings.Contains(permit, ":") {
			permit = "localhost:" + permit
		}
		wantHost, wantPort, ok := splitPermit(permit)
		if !ok || !portMatches(wantPort, int(at.port)) {
			return false
		}
		matched, err := path.Match(strings.ToLower(wantHost), strings.ToLower(at.host))
		return err == nil && matched || addressClass(wantHost) == addressClass(at.host)
	})
}

// splitPermit splits host:port at the last colon and takes the brackets off an IPv6 address.
func splitPermit(permit string) (host, port string, ok bool) {
	i := strings.LastIndexByte(permit, ':')
	if i < 0 {
		return "", "", false
	}
	return strings.Trim(permit[:i], "[]"), permit[i+1:], true
}

func portMatches(want string, port int) bool { return want == "*" || want == strconv.Itoa(port) }
