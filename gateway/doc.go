// Package gateway is the SSH server in front of Session Manager: it joins the SSH connection of a person with an SSH connection to the real sshd of
// a machine, and judges everything that passes between them.
//
// A connection goes through these hands, in this order:
//
//	Server.Serve   accepts, and holds the limits that come before anybody is known        server.go limits.go
//	conn           the handshake; who is it?                                              conn.go auth.go banner.go
//	  direct       the login names a machine: ec2-user@i-abc@gateway                      direct.go
//	  jump         direct-tcpip names a machine: ssh -J gateway ec2-user@i-abc            jump.go
//	    inner      the gateway answers there as the SSH server of that machine            inner.go
//	    relay      passthrough and other ports: bytes only                                passthrough.go relay.go
//	  no machine   help, ls, whoami, sessions; or a machine chosen from a list            notarget.go foyer.go picker.go
//	visit          one person's stay on one machine: the policy's yes, the audit, the end visit.go
//	upstream       StartSession, key push, the machine's own sshd                         upstream.go turns.go pushed.go
//	  logins       by what the gateway logs in: pushed key, certificate, agent            logins.go userca.go agentlogin.go
//	  no sshd      Session Manager shells that stand in for it                            shellway.go shellconn.go shellchannel.go shellrequests.go
//	link           the connection that comes of it, held by one bridge at a time          link.go
//	warm           links whose client has gone, for the same person's next connection     warm.go
//	fleet          further links for the same stay, within limits                         fleet.go laneseats.go
//	bridge         channel by channel between the two                                     package bridge
//
// The SSH library is used directly. gliderlabs/ssh, which test machines are built with, is kept out of the server: it fixes the user name at the first
// authentication attempt, shares one Permissions value between all keys a client offers, turns on login without authentication when its own handlers are
// unset, and erases handshake deadlines. Here the login name carries the target and the key carries the person, so each of these would be a way in.
//
// Nothing a client says makes this process dial or listen: it reaches machines only through Cloud.
package gateway
