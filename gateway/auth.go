package gateway

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// serverVersion has no version number. It begins with OpenSSH because OpenSSH's client tells only such servers that it no longer reads output
// (eow@openssh.com, PROTOCOL 2.1): with any other name `ssh host yes | head` runs for ever, since the remote program never gets SIGPIPE. In return clients
// send no-more-sessions@openssh.com, which the bridge keeps.
const serverVersion = "SSH-2.0-OpenSSH_compatible_ssm-ssh-gateway"

// proof is who has logged in over one SSH connection, and as what. It is made once, when a signature has been verified, and never changes.
type proof struct {
	identity *authz.Identity
	at       time.Time
	key      ssh.PublicKey // the key that signed; nil where the proof of the outer login was taken for the inner one
	user     string        // the login name of the very request that was proven
	route    *route        // the machine that the login means; nil where it names none
}

// proofKey finds the proof in ssh.Permissions. The type is private: a certificate's own extensions cannot collide with it.
type proofKey struct{}

// doorman decides one SSH handshake. The library calls its methods one after the other, from the goroutine of the handshake.
type doorman struct {
	ctx    context.Context // of the handshake; the library's callbacks carry none
	srv    *Server
	source netip.AddrPort
	// admit decides what a proven login means on this connection, and refuses it where it means nothing. It may ask AWS: it is only called after proof.
	admit func(ctx context.Context, p *proof) error
	// waived is whose proof stands for this login already (inner_auth = "connection"); nil: a signature is demanded.
	waived *authz.Identity
	// explain words a refusal for the person and logs its cause.
	explain func(err error) string

	wire    ssh.ServerPreAuthConn // the connection, to be spoken to until the login is done
	unknown string                // fingerprint of the first unknown key that was offered
	refused error                 // the last refusal that followed a proof
}

// config gives the library's configuration for this handshake. It is made anew each time: the library's hooks of one connection must not be shared.
func (d *doorman) config(limits Limits, hostKeys []ssh.Signer) *ssh.ServerConfig {
	algorithms := ssh.SupportedAlgorithms() // the defaults are laxer: they have SHA-1 in exchange, MAC and client signatures
	config := &ssh.ServerConfig{
		Config:                    ssh.Config{KeyExchanges: algorithms.KeyExchanges, Ciphers: d.srv.cfg.Ciphers, MACs: algorithms.MACs},
		PublicKeyAuthAlgorithms:   algorithms.PublicKeyAuths,
		MaxAuthTries:              limits.AuthTries,
		ServerVersion:             serverVersion,
		PublicKeyCallback:         d.offered,
		VerifiedPublicKeyCallback: d.proven,
		NoClientAuth:              d.waived != nil,
		NoClientAuthCallback:      d.unproven,
		PreAuthConnCallback:       func(wire ssh.ServerPreAuthConn) { d.wire = wire },
	}
	for _, key := range hostKeys {
		config.AddHostKey(key)
	}
	return config
}

// offered answers whether a key is worth a signature. Nobody has proven anything yet: no identity, no target, no AWS call, and nothing is remembered but that
// the hint was given. It is given once, because a client offers every key of an agent, and not for keys that were offered beside a good one before, because
// it would then be noise in front of every login of that person.
func (d *doorman) offered(_ ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
	if d.srv.rules.Load().directory.Candidate(key, time.Now()) {
		permissions := &ssh.Permissions{}
		if d.srv.rules.Load().directory.TouchWaived(key) {
			permissions.Extensions = map[string]string{"no-touch-required": ""}
		}
		return permissions, nil
	}
	fingerprint := ssh.FingerprintSHA256(key)
	refusal := &authz.Refusal{Reason: authz.ReasonUnknownKey, Subject: fingerprint}
	if d.unknown != "" || d.srv.beside.Contains(fingerprint) {
		return nil, refusal
	}
	d.unknown = fingerprint
	return nil, &ssh.BannerError{Err: refusal, Message: d.explain(refusal) + "\r\n"}
}

// proven is called when a signature by key has been verified: here and only here somebody becomes known. conn.User is read now and not before, because a
// client may change it between attempts.
func (d *doorman) proven(conn ssh.ConnMetadata, key ssh.PublicKey, _ *ssh.Permissions, _ string) (*ssh.Permissions, error) {
	now := time.Now()
	identity, err := d.srv.rules.Load().directory.Identify(key, d.source, now)
	if err != nil {
		return nil, d.refuse(err)
	}
	return d.welcome(&proof{identity: identity, at: now, key: key, user: conn.User()})
}

// unproven answers a login without a signature. It can succeed only where policy takes the proof of the outer connection.
func (d *doorman) unproven(conn ssh.ConnMetadata) (*ssh.Permissions, error) {
	if d.waived == nil {
		return nil, ssh.ErrNoAuth
	}
	return d.welcome(&proof{identity: d.waived, at: time.Now(), user: conn.User()})
}

// welcome asks what a login means. ErrNoAuth is no refusal: a key is demanded after all, and the client goes on to offer some.
func (d *doorman) welcome(p *proof) (*ssh.Permissions, error) {
	if err := d.admit(d.ctx, p); errors.Is(err, ssh.ErrNoAuth) {
		return nil, err
	} else if err != nil {
		return nil, d.refuse(err)
	}
	if d.unknown != "" {
		d.srv.beside.Add(d.unknown, struct{}{})
	}
	return &ssh.Permissions{ExtraData: map[any]any{proofKey{}: p}}, nil
}

// refuse words a refusal for somebody who has proven a key.
func (d *doorman) refuse(err error) error {
	d.refused = err
	return &ssh.BannerError{Err: err, Message: d.explain(err) + "\r\n"}
}

// handshake logs a client in within the grace time, which covers version and key exchange too. It works on any net.Conn, also on those whose deadlines
// do nothing, by closing it. On failure raw is closed.
func (d *doorman) handshake(raw net.Conn, limits Limits, hostKeys []ssh.Signer) (bridge.Leg, *proof, error) {
	ctx, cancel := context.WithTimeoutCause(d.ctx, limits.LoginGrace, errGrace)
	defer cancel()
	d.ctx = ctx
	stop := context.AfterFunc(ctx, func() { _ = raw.Close() })
	conn, chans, reqs, err := ssh.NewServerConn(raw, d.config(limits, hostKeys))
	inTime := stop() && ctx.Err() == nil // its end is known a moment before what is to be done at its end is begun
	if err == nil && inTime {
		return bridge.Leg{Conn: conn, Chans: chans, Reqs: reqs}, proofOf(conn), nil
	}
	_ = raw.Close()
	if err == nil {
		bridge.Leg{Conn: conn, Chans: chans, Reqs: reqs}.Discard()
	}
	return bridge.Leg{}, nil, d.failure(err)
}

func proofOf(conn *ssh.ServerConn) *proof {
	p, ok := conn.Permissions.ExtraData[proofKey{}].(*proof)
	if !ok {
		panic("gateway: a login without a proof") // unreachable: every way to success goes through welcome
	}
	return p
}

// failure says why a handshake failed: the refusal somebody proven was given, else the end of time, else that the key was unknown or that the two sides had no
// algorithm in common. Its own words for the algorithms are left out: they have all that a stranger sent, at any length. What remains is the client's doing,
// and no fault of ours: it hung up (a port scanner, a health check, somebody who touched no security key), or what it sent was no SSH.
func (d *doorman) failure(err error) error {
	var negotiation *ssh.AlgorithmNegotiationError
	switch {
	case d.refused != nil:
		return d.refused
	case d.ctx.Err() != nil:
		return context.Cause(d.ctx)
	case d.unknown != "":
		return &authz.Refusal{Reason: authz.ReasonUnknownKey, Subject: d.unknown, Cause: err}
	case errors.As(err, &negotiation):
		offer := printable(strings.Join(negotiation.RequestedAlgorithms, ","), wordLimit)
		return &authz.Refusal{Reason: authz.ReasonNoCommonAlgorithm, Subject: negotiation.What, Detail: "it offers " + offer}
	}
	return &authz.Refusal{Reason: authz.ReasonNoLogin, Cause: err}
}

// samePerson refuses an inner login by somebody else than the outer one: one person's connection must not carry another's login.
func samePerson(outer, inner *authz.Identity) error {
	if outer.Person == inner.Person {
		return nil
	}
	return &authz.Refusal{Reason: authz.ReasonDifferentIdentity, Subject: inner.Person, Detail: outer.Person}
}

// reasonOf gives the reason of a failure; ReasonInternal for one that is not a refusal.
func reasonOf(err error) authz.Reason {
	var refusal *authz.Refusal
	switch {
	case errors.As(err, &refusal):
		return refusal.Reason
	case errors.Is(err, context.DeadlineExceeded):
		return authz.ReasonTimeout
	}
	return authz.ReasonInternal
}
