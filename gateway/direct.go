package gateway

import (
	"context"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// sshPort is where the sshd of a machine is in the direct shape, which has no place for another port.
const sshPort = 22

// routeOf reads the login name of somebody proven: in the direct shape (ec2-user@i-abc@gateway) it fixes OS user, machine and role once and for all, so
// that what was authenticated and what is routed cannot differ. Any other name means no machine.
func (c *conn) routeOf(ctx context.Context, p *proof) error {
	login, name, direct := authz.ParseLogin(p.user)
	if !direct {
		return nil
	}
	osUser, err := authz.ParseOSUser(login)
	if err != nil {
		return err
	}
	target, err := c.srv.find(ctx, p.identity, name)
	if err != nil {
		return err
	}
	entered, err := c.srv.enter(c.srv.rules.Load(), route{identity: p.identity, proven: p.at, named: name, target: target, port: sshPort, osUser: osUser})
	if err != nil {
		return err
	}
	if entered.obligations.Mode == authz.ModePassthrough {
		return &authz.Refusal{
			Reason: authz.ReasonUnsupportedTarget, Subject: name,
			Detail: "policy allows passthrough only, which needs the jump: ssh -J " + osUser + "@GATEWAY " + osUser + "@" + name,
		}
	}
	p.route = entered
	return nil
}

// arrival is the stay of a direct login. It begins while the person still logs in, so that opening the session to the machine does not wait for that and the
// machine's banner can be shown.
type arrival struct {
	visit *visit
	up    *upstream
}

// arrive begins the stay that a login means. leave or direct must follow.
func (c *conn) arrive(r *route) *arrival {
	v := c.newVisit(*r, modeInspected, c.ref)
	c.srv.record(v.event(EventTargetAllowed))
	a := &arrival{visit: v, up: openUpstream(v)}
	a.up.login(r.osUser)
	return a
}

// leave ends an arrival whose login came to nothing.
func (a *arrival) leave(err error) {
	a.up.close()
	a.visit.end(err)
}

// direct joins the client's own connection with the machine that its login names.
func (a *arrival) direct(client bridge.Leg) error {
	var err error = errFault // unless the stay ends by itself
	defer func() { a.visit.end(err) }()
	err = a.visit.join(client, a.up)
	return err
}

// join carries everything between a client and the machine until one of them ends.
func (v *visit) join(client bridge.Leg, up *upstream) error {
	defer up.close()
	v.agent.reach(client.Conn)
	v.recheck(v.conn.srv.rules.Load()) // a reload may have come during the login
	r := v.current()
	limits := v.conn.srv.cfg.Limits
	ships := &fleet{visit: v, first: up}
	err := bridge.Run(v.ctx, client, ships.next, bridge.Config{
		Attend: v.attend,
		Grants: r.identity.Grants, Gate: v, Watch: v, Text: v.text, Log: v.log, Notice: up.notice, Eager: true, Late: v.conn.srv.cfg.NoEarlyAnswers,
		Limits: bridge.Limits{
			Keepalive: limits.Keepalive, KeepaliveTimeout: limits.Silence(),
			Channels: limits.ChannelsPerConnection,
			Lanes:    limits.LanesPerConnection, FileLanes: limits.LanesPerFile, LaneIdle: limits.LaneIdle,
		},
	})
	return cutCause(v.ctx, err)
}
