package gateway

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// notInspected is what the audit says of bytes that only passed.
const notInspected = "passthrough, not inspected"

// passthrough carries a jump's bytes to the machine's sshd as they are: SSH is end to end between client and machine. Where Instance Connect leads in, the
// person's own key is pushed for the OS user that the outer login names, while the session is being opened; elsewhere the machine has to know it already.
func (v *visit) passthrough(channel ssh.NewChannel, p *proof) error {
	r := v.current()
	key, err := ownKey(&r, p.key)
	if err != nil {
		refuse(channel, rejection(err), v.text(err))
		return err
	}
	ctx, cancel := context.WithCancel(v.ctx)
	defer cancel()
	pushed := v.pushOwn(ctx, &r, key)
	port, sessionID, err := v.openPort(true)
	if err != nil {
		cancel()
	}
	if pushErr := <-pushed; err == nil && pushErr != nil {
		_ = port.Close()
		err = fmt.Errorf("push the key of %s for %s to %s: %w", r.identity.Person, r.osUser, r.target.ID, pushErr)
	}
	return v.carry(channel, port, sessionID, key, err)
}

// pushOwn begins to push the person's own key; the channel gets what came of it. Nothing is pushed of a nil key.
func (v *visit) pushOwn(ctx context.Context, r *route, key ssh.PublicKey) <-chan error {
	pushed := make(chan error, 1)
	if key == nil {
		v.log.Info("no key is pushed: the machine has to know the person's own", "os_user", r.osUser)
		pushed <- nil
		return pushed
	}
	go func() { // ends with the push, which ends with ctx; passthrough waits for it
		err := errors.New("the key push did not finish") // unless it does
		defer func() { pushed <- err }()
		defer logPanic(v.log, "key push")
		err = v.conn.srv.cfg.Cloud.PushKey(ctx, r.role, r.target, r.osUser, key)
	}()
	return pushed
}

// ownKey gives the key to push so that the person's own logs in to the machine; nil where Instance Connect is no way in, because it does not know the machine
// or policy leaves it out. Of the other ways (authz.Login) the gateway can go none here: it sees no login.
func ownKey(r *route, key ssh.PublicKey) (ssh.PublicKey, error) {
	demanded := r.obligations.Login
	if r.target.IsManagedNode() && demanded == authz.LoginInstanceConnect {
		return nil, &authz.Refusal{
			Reason: authz.ReasonUnsupportedTarget, Subject: r.named, Action: "passthrough",
			Detail: "policy wants a login by EC2 Instance Connect, which knows no hybrid nodes",
		}
	}
	if r.target.IsManagedNode() || demanded != authz.LoginAny && demanded != authz.LoginInstanceConnect {
		return nil, nil //nolint:nilnil // no key to push, as said above
	}
	return pushable(key)
}

// pushable gives the key to push for a person whose own key shall log in: Instance Connect takes only lines of these types.
func pushable(key ssh.PublicKey) (ssh.PublicKey, error) {
	if cert, ok := key.(*ssh.Certificate); ok {
		key = cert.Key
	}
	if key == nil || !slices.Contains([]string{ssh.KeyAlgoRSA, ssh.KeyAlgoED25519}, key.Type()) {
		return nil, &authz.Refusal{
			Reason: authz.ReasonUnsupportedTarget, Action: "passthrough",
			Detail: "passthrough needs an RSA or Ed25519 key, because Instance Connect takes no other",
		}
	}
	return key, nil
}

// keepsNoLimits refuses passthrough by a key or certificate with options that take something away. The gateway could not see to them, and the machine would not
// know them: what is pushed there is the bare key.
func keepsNoLimits(r *route) error {
	if r.identity.Grants.Whole() {
		return nil
	}
	return &authz.Refusal{
		Reason: authz.ReasonNotPermitted, Subject: r.named,
		Detail: "policy has passthrough here, which cannot keep the limits that your key or certificate has, such as command=, restrict or a missing permit-pty",
	}
}
