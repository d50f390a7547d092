package gateway

import (
	"errors"
	"net"
	"strconv"
	"strings"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// What follows makes a visit the observer of its bridge: what it hears becomes audit events.

// event begins an event with what is known of the stay.
func (v *visit) event(what string) Event {
	r := v.current()
	e := v.conn.event(what)
	e.Ref, e.Via = v.ref, ""
	if v.ref != v.conn.ref {
		e.Via = v.conn.ref
	}
	who(&e, r.identity)
	e.Target, e.Instance, e.Port, e.OSUser, e.Role, e.Mode = r.named, r.target.Place(), r.port, r.osUser, r.role.ARN, v.mode
	if v.shell.Load() {
		e.Mode = modeShell
	}
	e.Policies = strings.Join(r.policies, ",")
	return e
}

// ChannelOpened implements bridge.Observer.
func (v *visit) ChannelOpened(c *bridge.ChannelInfo) {
	v.tally.opened(c)
	if c.ID == 1 {
		v.stage(stepOpen, v.began)
	}
	v.conn.srv.record(v.channelEvent(EventChannelOpened, c))
}

// ChannelRequest implements bridge.Observer.
func (v *visit) ChannelRequest(c *bridge.ChannelInfo, name, detail string) {
	e := v.channelEvent(EventChannelRequest, c)
	e.Request, e.Detail = name, detail
	v.conn.srv.record(e)
}

// ChannelClosed implements bridge.Observer.
func (v *visit) ChannelClosed(c *bridge.ChannelInfo) {
	v.tally.closed(c)
	e := v.channelEvent(EventChannelClosed, c)
	e.BytesIn, e.BytesOut = c.In.Load(), c.Out.Load()
	if c.ExitStatus != nil {
		status := int(*c.ExitStatus)
		e.ExitStatus = &status
	}
	e.ExitSignal = c.ExitSignal
	e.Duration = c.Closed.Sub(c.Opened).Milliseconds()
	withCause(&e, c.Cause)
	v.conn.srv.record(e)
}

// GlobalRequest implements bridge.Observer.
func (v *visit) GlobalRequest(name, detail string, allowed bool) {
	e := v.event(EventGlobalRequest)
	e.Request, e.Detail, e.Allowed = name, detail, &allowed
	v.conn.srv.record(e)
}

func (v *visit) channelEvent(what string, c *bridge.ChannelInfo) Event {
	e := v.event(what)
	e.Channel, e.ChannelType, e.Direction, e.Destination = strconv.FormatUint(c.ID, 10), c.Type, "client", c.Destination()
	if c.FromTarget {
		e.Direction = "target"
	}
	return e
}

// who fills in the person.
func who(e *Event, id *authz.Identity) {
	if id == nil {
		return
	}
	e.Person, e.Method, e.Fingerprint, e.KeyType = id.Person, string(id.Method), id.Fingerprint, id.KeyType
	if cert := id.Certificate; cert != nil {
		e.CertKeyID, e.CertSerial, e.CertCA = cert.KeyID, cert.Serial, cert.CA
	}
}

// withCause fills in why something failed or ended; nothing for nil.
func withCause(e *Event, err error) {
	if err == nil {
		return
	}
	e.Cause = err.Error()
	var refusal *authz.Refusal
	if errors.As(err, &refusal) {
		e.Reason = string(refusal.Reason)
	}
}

// destination is host:port for the audit; a path or nothing stays as it is.
func destination(host string, port int) string {
	if port == 0 {
		return host
	}
	return net.JoinHostPort(host, strconv.Itoa(port))
}
