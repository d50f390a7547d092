package gateway

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// jumps serves a connection whose login names no machine: ssh -J gateway …, ssh -L …:i-abc:port gateway, and plain ssh gateway.
func (c *conn) jumps(client bridge.Leg, p *proof) error {
	stop := context.AfterFunc(c.ctx, func() {
		c.awaitIdle() // so that what the machines' sessions are told still gets out
		_ = client.Conn.Close()
	})
	defer stop()
	c.tasks.Go(func() { refuseRequests(client.Reqs) })
	c.tasks.Go(func() { c.keepAlive(client.Conn) })
	for channel := range client.Chans { // until the connection has ended
		c.serveChannel(client.Conn, channel, p)
	}
	stop()
	cut := cutCause(c.ctx, nil)                                  // a client that leaves, leaves in good order
	c.cancel(fmt.Errorf("%w: %w", bridge.ErrClientLeft, io.EOF)) // also from the machines inside, whichever end is noticed first
	c.tasks.Wait()
	return cut
}

// refuseRequests answers global requests on the outer connection: none means anything here. What is not understood gets a failure, which is also the answer
// that keepalives want; a remote forward would make the gateway listen.
func refuseRequests(reqs <-chan *ssh.Request) {
	for req := range reqs {
		_ = req.Reply(false, nil)
	}
}

// serveChannel starts what a channel asks for. It must not wait: the connection's read loop waits for it.
func (c *conn) serveChannel(outer ssh.Conn, channel ssh.NewChannel, p *proof) {
	var task func()
	switch channel.ChannelType() {
	case "direct-tcpip":
		task = func() { c.openMachine(channel, p) }
	case "session":
		task = func() { c.builtin(outer, channel, p) }
	default:
		err := &authz.Refusal{Reason: authz.ReasonUnsupportedTarget, Subject: channel.ChannelType(), Detail: "name a machine first: ssh -J GATEWAY USER@MACHINE"}
		refuse(channel, ssh.UnknownChannelType, c.text(err))
		return
	}
	if !c.start(func() { defer c.refuseAfterPanic(channel); task() }) {
		err := &authz.Refusal{Reason: authz.ReasonTooManyConnections, Detail: fmt.Sprintf("%d on one connection", c.srv.cfg.Limits.MachinesPerConnection)}
		refuse(channel, ssh.ResourceShortage, c.text(err))
	}
}

// refuseAfterPanic keeps a client from waiting for an answer that a fault of ours has swallowed. To be deferred directly.
func (c *conn) refuseAfterPanic(channel ssh.NewChannel) {
	if fault := recover(); fault != nil {
		c.log.Error("panic", "during", channel.ChannelType(), "panic", fmt.Sprint(fault), "stack", stack())
		refuse(channel, ssh.ConnectionFailed, sentence(errFault, c.ref)) // does nothing where the channel has been answered
	}
}

// errFault is what a person is told of a panic.
var errFault = &authz.Refusal{Reason: authz.ReasonInternal}

// directTCPIP is the payload of a direct-tcpip channel open, RFC 4254 section 7.2.
type directTCPIP struct {
	Host       string
	Port       uint32
	OriginHost string
	OriginPort uint32
}

// openMachine answers a direct-tcpip. The host is only ever a name for Cloud.Resolve; nothing is dialed from here.
func (c *conn) openMachine(channel ssh.NewChannel, p *proof) {
	ref, began := newRef(), time.Now()
	r, mode, err := c.routeTo(channel.ExtraData(), p)
	if err != nil {
		c.refuseMachine(channel, p, r, ref, err)
		return
	}
	v := c.newVisit(r, mode, ref)
	v.stage(stepDeciding, began)
	if mode == modePort {
		v.remember(granted{authz.ActionForwardLocal, r.named, r.port})
	}
	if mode != modeInspected { // the inner login has the last word otherwise
		c.srv.record(v.event(EventTargetAllowed))
	}
	err = errFault // unless the stay ends by itself
	defer func() { v.end(err) }()
	switch mode {
	case modeInspected:
		err = v.inner(channel, p)
	case modePassthrough:
		err = v.passthrough(channel, p)
	default:
		err = v.plainPort(channel)
	}
}

// routeTo decides where a direct-tcpip leads, and how. What is known of the route is returned with a refusal, too.
func (c *conn) routeTo(payload []byte, p *proof) (route, string, error) {
	r := route{identity: p.identity, proven: p.at}
	var dest directTCPIP
	if err := ssh.Unmarshal(payload, &dest); err != nil || dest.Port == 0 || dest.Port > 65535 {
		return r, "", &authz.Refusal{Reason: authz.ReasonBadTargetName, Detail: "malformed request"}
	}
	r.named, r.port = dest.Host, int(dest.Port)
	target, err := c.srv.find(c.ctx, p.identity, dest.Host)
	if err != nil {
		return r, "", err
	}
	r.target = target
	now := c.srv.rules.Load()
	if !slices.Contains(c.srv.cfg.SSHPorts, r.port) {
		return c.routeToPort(now, r, p)
	}
	if through, ok := c.throughFor(now, r, p); ok {
		return through, modePassthrough, keepsNoLimits(&through)
	}
	entered, err := c.srv.enter(now, r)
	if err != nil {
		return r, "", err
	}
	if entered.obligations.Mode == authz.ModePassthrough {
		return r, "", &authz.Refusal{
			Reason: authz.ReasonNotPermitted, Subject: r.named,
			Detail: "policy allows passthrough only: name the user of the machine in the login to the gateway, as in ssh -J ec2-user@GATEWAY",
		}
	}
	return *entered, modeInspected, nil
}

// throughFor gives the passthrough route, if policy allows one to the OS user whom the outer login names, else to the one that is configured. SSH is end to
// end then, and its user name cannot be seen here.
func (c *conn) throughFor(now *rules, r route, p *proof) (route, bool) {
	fallback := c.srv.cfg.PassthroughOSUser
	for _, name := range []string{p.user, fallback} {
		osUser, err := authz.ParseOSUser(name)
		if err != nil || fallback != "" && name == p.identity.Person { // clients send the person's own name where nobody was named
			continue
		}
		entered, err := c.srv.enter(now, r.withUser(osUser))
		if err == nil && entered.obligations.Mode == authz.ModePassthrough {
			return *entered, true
		}
	}
	return route{}, false
}

// routeToPort decides about a port that is not SSH: a tunnel into the machine. The OS user is whom the outer login names, where it is a name at all; a tunnel
// logs in as nobody, but a policy may speak of the user.
func (c *conn) routeToPort(now *rules, r route, p *proof) (route, string, error) {
	if osUser, err := authz.ParseOSUser(p.user); err == nil {
		r.osUser = osUser
	}
	entered, err := c.srv.enter(now, r)
	if err != nil {
		return r, "", err
	}
	decision, err := c.srv.judge(now, entered, authz.ActionForwardLocal, r.named, r.port)
	if err != nil {
		return r, "", err
	}
	demanded := decision.Obligations.Role // nothing has been opened yet: the tunnel's own role is as good as the connection's
	if demanded == "" {
		demanded = entered.obligations.Role
	}
	if entered.role, err = c.srv.roleOf(now, entered, demanded); err != nil {
		return r, "", err
	}
	entered.obligations.MaxSession = shorter(entered.obligations.MaxSession, decision.Obligations.MaxSession)
	return *entered, modePort, nil
}

// shorter gives the stricter of two time limits, where 0 is none.
func shorter(a, b time.Duration) time.Duration {
	if a == 0 || b != 0 && b < a {
		return b
	}
	return a
}

// refuseMachine tells the person and the audit why they do not reach a machine.
func (c *conn) refuseMachine(channel ssh.NewChannel, p *proof, r route, ref string, err error) {
	if errors.Is(err, context.Canceled) && c.ctx.Err() != nil {
		err = context.Cause(c.ctx)
	}
	e := c.event(EventTargetRefused)
	e.Ref, e.Via = ref, c.ref
	who(&e, p.identity)
	e.Target, e.Port = r.named, r.port
	if r.target != nil {
		e.Instance = r.target.Place()
	}
	withCause(&e, err)
	c.srv.record(e)
	c.log.Warn("refused", "ref", ref, "target", r.named, "reason", reasonOf(err), "error", err)
	refuse(channel, rejection(err), sentence(err, ref))
}
