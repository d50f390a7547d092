package bridge

import (
	"errors"
	"fmt"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// side is one of the two ends of a bridge.
type side bool

const (
	fromClient side = false
	fromTarget side = true
)

// channelRule is how a channel type is treated. A type that is not in channelTypes is refused.
type channelRule struct {
	from  side                                                     // who may open it
	judge func(b *bridge, info *ChannelInfo, payload []byte) error // reads the payload into info and says whether it may be
}

// channelTypes is the catalog (RFC 4254 and OpenSSH's PROTOCOL). Payloads are relayed byte for byte.
//
// Absent on purpose: tun@openssh.com (layer 2 and 3 tunnels, no policy speaks of them).
var channelTypes = map[string]channelRule{
	"session":                           {fromClient, judgeNothing}, // judged request by request, and by admit
	"direct-tcpip":                      {fromClient, judgeDirectTCP},
	"direct-streamlocal@openssh.com":    {fromClient, judgeDirectSocket},
	"forwarded-tcpip":                   {fromTarget, judgeForwardedTCP},
	"forwarded-streamlocal@openssh.com": {fromTarget, judgeForwardedSocket},
	"auth-agent@openssh.com":            {fromTarget, judgeAgent},
	"agent-connect":                     {fromTarget, judgeAgent}, // the same, in newer words
	"x11":                               {fromTarget, judgeX11},
}

func judgeNothing(*bridge, *ChannelInfo, []byte) error { return nil }

// admit takes in a channel open without holding up the loop that reads them. via is the lane it came from, nil for the client's;
// after is closed when it is its turn, nil for at once.
func (b *bridge) admit(nc ssh.NewChannel, from side, via *lane, after <-chan struct{}) {
	if nc.ChannelType() == "session" && b.doorClosed() {
		_ = nc.Reject(ssh.Prohibited, "no more sessions, as the client itself asked")
		return
	}
	if nc.ChannelType() == "session" && from == fromClient && b.cfg.Attend != nil {
		nc = b.cfg.Attend(nc)
	}
	id, no := b.takeSlot()
	if no != "" {
		_ = nc.Reject(ssh.ResourceShortage, no)
		return
	}
	info := &ChannelInfo{ID: id, Type: nc.ChannelType(), FromTarget: from == fromTarget, Opened: time.Now()}
	b.spawn(func() {
		defer b.freeSlot()
		await(after)
		c, err := b.openChannel(info, nc, via)
		if err != nil {
			b.refuseChannel(info, nc, err)
			return
		}
		c.run()
	})
}

// openChannel judges, opens the mirror, and only then accepts, so that the other side's refusal can be relayed as it is.
func (b *bridge) openChannel(info *ChannelInfo, nc ssh.NewChannel, via *lane) (*channel, error) {
	rule, known := channelTypes[info.Type]
	if !known {
		return nil, &ssh.OpenChannelError{Reason: ssh.UnknownChannelType, Message: "unknown channel type"}
	}
	if bool(rule.from) != info.FromTarget {
		return nil, &ssh.OpenChannelError{Reason: ssh.Prohibited, Message: "not a channel to open from this side"}
	}
	if err := rule.judge(b, info, nc.ExtraData()); err != nil {
		return nil, err
	}
	if via != nil {
		return b.openDown(info, nc, via)
	}
	traffic := trafficOf(info.Type)
	mirror, err := b.openUp(need{traffic: traffic, session: traffic == undecided}, info.Type, nc.ExtraData())
	if err != nil {
		return nil, err
	}
	c := b.newChannel(info, mirror)
	if c.client.ch, c.client.reqs, err = nc.Accept(); err != nil { // the client is gone
		c.cancel()
		b.abandon(mirror.end, mirror.berth)
		return nil, fmt.Errorf("accepting a %s channel: %w", info.Type, err)
	}
	return c, nil
}

// openDown opens the mirror of a channel that the machine opens. It stays on the lane it came by.
func (b *bridge) openDown(info *ChannelInfo, nc ssh.NewChannel, via *lane) (*channel, error) {
	at := b.holdOn(via, need{traffic: trafficOf(info.Type)})
	mirror := newLanding(at, end{})
	c := b.newChannel(info, mirror)
	var err error
	if c.client.ch, c.client.reqs, err = b.client.Conn.OpenChannel(info.Type, nc.ExtraData()); err != nil {
		c.cancel()
		b.leave(at)
		return nil, err
	}
	if mirror.ch, mirror.reqs, err = nc.Accept(); err != nil { // the lane is gone
		c.cancel()
		b.abandon(c.client, at)
		return nil, fmt.Errorf("accepting a %s channel: %w", info.Type, err)
	}
	return c, nil
}

// abandon closes a half whose other half did not come to be, and gives the place back.
func (b *bridge) abandon(half end, at *berth) {
	_ = half.ch.Close()
	b.spawn(func() {
		ssh.DiscardRequests(half.reqs)
		b.leave(at)
	})
}

// refuseChannel says no: in the machine's own words where it was the machine, else in ours.
func (b *bridge) refuseChannel(info *ChannelInfo, nc ssh.NewChannel, err error) {
	b.cfg.Log.Info("channel refused", "channel", info.ID, "type", info.Type, "destination", info.Destination(), "err", err)
	b.cfg.Watch.ChannelRequest(info, "open"+RefusedSuffix, err.Error())
	var theirs *ssh.OpenChannelError
	if errors.As(err, &theirs) {
		_ = nc.Reject(theirs.Reason, theirs.Message)
		return
	}
	reason := ssh.ConnectionFailed
	var refusal *authz.Refusal
	if errors.As(err, &refusal) && forbids(refusal.Reason) {
		reason = ssh.Prohibited
	}
	_ = nc.Reject(reason, b.cfg.Text(err))
}

// forbids tells the reasons that mean "you may not" from those that mean "it did not work".
func forbids(r authz.Reason) bool {
	switch r {
	case authz.ReasonNotPermitted, authz.ReasonPolicyError, authz.ReasonAccessDenied, authz.ReasonNoRole:
		return true
	}
	return false
}
