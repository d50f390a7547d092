package bridge

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

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
func readTCP(info *ChannelInfo, payload []byte) error {
	var open tcpOpen
	if err := ssh.Unmarshal(payload, &open); err != nil || open.Port > maxPort || open.OriginPort > maxPort {
		return &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: errMalformed.Error()}
	}
	info.Host, info.Port = open.Host, int(open.Port)
	if open.OriginHost != "" {
		info.Origin = net.JoinHostPort(open.OriginHost, strconv.Itoa(int(open.OriginPort)))
	}
	return nil
}

func readSocket(info *ChannelInfo, payload []byte) error {
	var open socketOpen
	if err := ssh.Unmarshal(payload, &open); err != nil {
		return &ssh.OpenChannelError{Reason: ssh.ConnectionFailed, Message: errMalformed.Error()}
	}
	info.Host = open.Path
	return nil
}

// judgeDirectTCP: -L, -D, -W. The machine dials; the gateway never does.
func judgeDirectTCP(b *bridge, info *ChannelInfo, payload []byte) error {
	if err := readTCP(info, payload); err != nil {
		return err
	}
	return b.cfg.Gate.Permit(authz.ActionForwardLocal, info.Host, info.Port)
}

// judgeDirectSocket: -L to a unix socket.
func judgeDirectSocket(b *bridge, info *ChannelInfo, payload []byte) error {
	if err := readSocket(info, payload); err != nil {
		return err
	}
	return b.cfg.Gate.Permit(authz.ActionForwardLocal, info.Host, 0)
}

// judgeForwardedTCP lets in only what this very connection asked to listen on.
func judgeForwardedTCP(b *bridge, info *ChannelInfo, payload []byte) error {
	if err := readTCP(info, payload); err != nil {
		return err
	}
	return b.forwards.admits(b.ctx, bind{host: info.Host, port: uint32(info.Port)})
}

func judgeForwardedSocket(b *bridge, info *ChannelInfo, payload []byte) error {
	if err := readSocket(info, payload); err != nil {
		return err
	}
	return b.forwards.admits(b.ctx, bind{host: info.Host, socket: true})
}

// judgeAgent: the agent is the person's; the machine gets at it only through a connection that offered it.
func judgeAgent(b *bridge, _ *ChannelInfo, _ []byte) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return unlessAsked(b.agentAllowed)
}

// judgeX11 is the same for the person's screen.
func judgeX11(b *bridge, info *ChannelInfo, payload []byte) error {
	var open struct {
		Host string
		Port uint32
	}
	if err := ssh.Unmarshal(payload, &open); err == nil {
		info.Origin = net.JoinHostPort(open.Host, strconv.FormatUint(uint64(open.Port), 10))
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
		err = b.cfg.Gate.Permit(authz.ActionForwardRemote, at.host, int(at.port))
	}
	b.cfg.Watch.GlobalRequest(req.Type, at.String(), err == nil)
	if err != nil {
		b.refuseGlobal(req, err)
		return
	}
	b.mu.Lock()
	b.listened = true
	b.mu.Unlock()
	via, err := b.listenOn()
	if err != nil {
		b.refuseGlobal(req, err)
		return
	}
	f := &remoteForward{bind: at, via: via, anyPort: !at.socket && at.port == 0, settled: make(chan struct{})}
	defer close(f.settled)
	if !b.forwards.add(f) {
		b.unlisten(via)
		b.refuseGlobal(req, errors.New("too many remote forwards"))
		return
	}
	ok, answer, err := via.Conn.SendRequest(req.Type, req.WantReply, req.Payload)
	if err != nil || !ok && req.WantReply {
		b.forwards.remove(f)
		b.unlisten(via)
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

// cancelForward forgets the listener and relays. Only what this connection started can be canceled; OpenSSH wants no answer.
func (b *bridge) cancelForward(req *ssh.Request) {
	at, err := readBind(req)
	f := b.forwards.find(at)
	b.cfg.Watch.GlobalRequest(req.Type, at.String(), f != nil)
	if err != nil || f == nil {
		_ = req.Reply(false, nil)
		return
	}
	ok, answer, err := f.via.Conn.SendRequest(req.Type, req.WantReply, req.Payload)
	if ok || !req.WantReply {
		b.forwards.remove(f)
		b.unlisten(f.via)
	}
	_ = req.Reply(ok && err == nil, answer)
}

// refuseGlobal refuses; the protocol has no room for a reason, so it is in the log.
func (b *bridge) refuseGlobal(req *ssh.Request, err error) {
	b.cfg.Log.Info("global request refused", "request", req.Type, "err", err)
	_ = req.Reply(false, nil)
}
