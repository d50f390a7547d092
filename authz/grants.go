package authz

import (
	"net"
	"slices"
	"strconv"
	"strings"
)

// allGrants is what a plain key has before its options take away, none what a certificate has before its extensions grant.
func allGrants() ChannelGrants {
	return ChannelGrants{PTY: true, PortForwarding: true, AgentForwarding: true, X11Forwarding: true}
}

// Whole reports whether nothing is taken away: neither a channel, nor a destination, nor the choice of the program. Where SSH is end to end between client
// and machine nobody could see to the rest, so only a whole key may come in that way.
func (g ChannelGrants) Whole() bool { return g.covers(allGrants()) }

// covers reports whether g allows all that other allows: a live session with other's grants may go on under g.
func (g ChannelGrants) covers(other ChannelGrants) bool {
	lost := other.PTY && !g.PTY || other.PortForwarding && !g.PortForwarding ||
		other.AgentForwarding && !g.AgentForwarding || other.X11Forwarding && !g.X11Forwarding
	return !lost && (g.ForceCommand == "" || g.ForceCommand == other.ForceCommand) &&
		coversList(g.PermitOpen, other.PermitOpen) && coversList(g.PermitListen, other.PermitListen)
}

// coversList compares two permit lists, where nil means everything.
func coversList(now, before []string) bool {
	if now == nil {
		return true
	}
	if before == nil {
		return false
	}
	return !slices.ContainsFunc(before, func(p string) bool { return !slices.Contains(now, p) })
}

// grantsDenial refuses what key options or certificate extensions do not leave. Connecting, shells and files are not theirs to forbid, and the
// PTY and a forced command are enforced where the channel is.
func grantsDenial(req Request) (Decision, bool) {
	g := req.Identity.Grants
	allowed, message := true, ""
	switch req.Action {
	case ActionForwardLocal:
		allowed, message = g.PortForwarding, "your key or certificate does not allow port forwarding"
		if allowed && !g.permitsOpen(req.DestHost, req.DestPort) {
			allowed, message = false, "your key allows port forwarding only to certain destinations"
		}
	case ActionForwardRemote:
		allowed, message = g.PortForwarding, "your key or certificate does not allow port forwarding"
		if allowed && !g.permitsListen(req.DestHost, req.DestPort) {
			allowed, message = false, "your key allows remote forwarding only from certain ports"
		}
	case ActionAgentForward, ActionAgentLogin:
		allowed, message = g.AgentForwarding, "your key or certificate does not allow agent forwarding"
	case ActionX11:
		allowed, message = g.X11Forwarding, "your key or certificate does not allow X11 forwarding"
	}
	if allowed {
		return Decision{}, false
	}
	return deny(ReasonNotPermitted, message), true
}

// permitsOpen matches as sshd does: the host literally or "*", the port equal or "*" (sshd(8), permitopen; no name is looked up). A socket's path
// is no host:port, so a key with permitopen reaches none: stricter than sshd, which leaves sockets out of it.
func (g ChannelGrants) permitsOpen(host string, port int) bool {
	return g.PermitOpen == nil || slices.ContainsFunc(g.PermitOpen, func(entry string) bool {
		h, p, ok := splitPermit(entry)
		return ok && (h == "*" || h == host) && matchPort(p, port)
	})
}

// permitsListen matches as sshd does: the host by wildcard, an entry without host for any (sshd(8), permitlisten).
func (g ChannelGrants) permitsListen(host string, port int) bool {
	return g.PermitListen == nil || slices.ContainsFunc(g.PermitListen, func(entry string) bool {
		h, p, ok := splitPermit(entry)
		return ok && matchWildcard(strings.ToLower(h), strings.ToLower(host)) && matchPort(p, port)
	})
}

// splitPermit takes host:port or [v6]:port apart.
func splitPermit(entry string) (host, port string, ok bool) {
	host, port, err := net.SplitHostPort(entry)
	return host, port, err == nil
}

func matchPort(pattern string, port int) bool { return pattern == "*" || pattern == strconv.Itoa(port) }

// matchWildcard matches ssh_config(5) PATTERNS: * for any run of characters, ? for one. It backtracks over the last * only, so it is at worst
// quadratic in lengths that are bounded by a configuration line.
func matchWildcard(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		switch {
		case p < len(pattern) && pattern[p] == '*':
			star, mark = p, i
			p++
		case p < len(pattern) && (pattern[p] == '?' || pattern[p] == s[i]):
			p++
			i++
		case star >= 0:
			mark++
			p, i = star+1, mark
		default:
			return false
		}
	}
	return strings.Trim(pattern[p:], "*") == ""
}
