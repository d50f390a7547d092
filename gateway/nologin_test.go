package gateway

import (
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// TestWhoLeavesBeforeALoginIsNoFaultOfOurs: whatever a stranger does first, the audit has a reason, and not the one of our own faults.
func TestWhoLeavesBeforeALoginIsNoFaultOfOurs(t *testing.T) {
	for name, test := range map[string]struct {
		visit  func(t *testing.T, w *world)
		reason authz.Reason
	}{
		"hangs up":                             {knocks(""), authz.ReasonNoLogin},
		"hangs up as SSH":                      {knocks("SSH-2.0-scanner\r\n"), authz.ReasonNoLogin},
		"speaks HTTP":                          {knocks("GET / HTTP/1.1\r\n\r\n"), authz.ReasonNoLogin},
		"sends garbage as SSH":                 {knocks("SSH-2.0-scanner\r\n" + strings.Repeat("\xff", 64)), authz.ReasonNoLogin},
		"has no key":                           {attempts(), authz.ReasonNoLogin},
		"does not sign":                        {attempts("alice"), authz.ReasonNoLogin},
		"has another's key":                    {attempts("stranger"), authz.ReasonUnknownKey},
		"does not sign, and has another's key": {attempts("stranger", "alice"), authz.ReasonUnknownKey},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{})
			test.visit(t, w)
			e := w.audit.waitFor(t, EventConnectionRefused)
			if e.Reason != string(test.reason) || e.Cause == "" || e.Person != "" {
				t.Errorf("the audit has %+v", e)
			}
		})
	}
}

// knocks says something and hangs up.
func knocks(say string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		raw, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(raw, say); err != nil {
			t.Error(err)
		}
		if err := raw.Close(); err != nil {
			t.Error(err)
		}
	}
}

// attempts offers the keys of some people and signs with none.
func attempts(people ...string) func(*testing.T, *world) {
	return func(t *testing.T, w *world) {
		l := &login{user: "x"}
		for _, name := range people {
			l.auth = append(l.auth, ssh.PublicKeys(unwilling{w.keys[name], errors.New("asked, and goes away")}))
		}
		if _, err := w.connect(t, l); err == nil {
			t.Error("logged in without a signature")
		}
	}
}
