package gateway

import (
	"sync/atomic"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// mortalDirectory lets alice's proof expire at a time that a test sets.
type mortalDirectory struct {
	Directory
	until atomic.Pointer[time.Time]
}

// StillValid implements Directory.
func (d *mortalDirectory) StillValid(id *authz.Identity, at time.Time) error {
	if until := d.until.Load(); until != nil && id.Person == "alice" && at.After(*until) {
		return &authz.Refusal{Reason: authz.ReasonCertificateExpired, Subject: id.Fingerprint}
	}
	return d.Directory.StillValid(id, at)
}

// TestExpiryCutsWhereThatIsSaid: a proof that expires ends its connection, in either shape, where that is configured; else it has counted at the login.
func TestExpiryCutsWhereThatIsSaid(t *testing.T) {
	for name, user := range map[string]string{"on the gateway": "x", "on a machine": "ec2-user@" + worldInstance} {
		t.Run(name, func(t *testing.T) {
			for _, cuts := range []bool{true, false} {
				var mortal mortalDirectory
				w := newWorld(t, worldOptions{limits: Limits{ExpiryCheck: time.Millisecond}, cfg: func(c *Config) {
					mortal.Directory = c.Directory
					c.Directory, c.CutExpired = &mortal, cuts
				}})
				expires, stays := w.mustConnect(t, as(user, w.keys["alice"])), w.mustConnect(t, as(user, w.keys["bob"]))
				now := time.Now()
				mortal.until.Store(&now)
				if !cuts {
					w.srv.Reload(&mortal, policyOf(t, ""))
					stays = expires
				} else {
					testkit.Within(t, "the end of what has expired", func() { _ = expires.Wait() })
					w.audit.wait(t, "the reason", func(e Event) bool {
						return e.Event == EventConnectionClosed && e.Person == "alice" && e.Reason == string(authz.ReasonCertificateExpired)
					})
				}
				if out, _, status := run(t, stays, "whoami"); status != 0 || out == "" {
					t.Errorf("cuts %v: what has not expired answers %q", cuts, out)
				}
			}
		})
	}
}
