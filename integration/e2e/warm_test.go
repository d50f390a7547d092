package e2e

import (
	"regexp"
	"testing"
)

// TestTheNextConnectionLooksTheSame compares two connections, of which the second finds the session of the first: what a command sees is the same, terminal or
// not, and AWS is asked for one session and one key.
func TestTheNextConnectionLooksTheSame(t *testing.T) {
	for _, kind := range []string{"sshd, kept warm", "embedded, kept warm"} {
		t.Run(kind, func(t *testing.T) {
			w := worldOf(t, kind)
			asked := func(action string) int {
				n := 0
				for _, call := range w.lab.AWS.Calls() {
					if call.Action == action && call.SessionName == w.person {
						n++
					}
				}
				return n
			}
			twice := func(args []string) (sessions, keys int) {
				w.reload(t)
				w.eventually(t, "a reload ends what waits", func() bool { return w.openSessions() == 0 })
				sessions, keys = asked("StartSession"), asked("SendSSHPublicKey")
				fresh := w.ssh(t, nil, args...)
				again := w.ssh(t, nil, args...)
				if plain(fresh.stdout) != plain(again.stdout) || fresh.code != again.code || again.stderr != fresh.stderr {
					t.Errorf("%v: at first %s, then %s", args, fresh, again)
				}
				return asked("StartSession") - sessions, asked("SendSSHPublicKey") - keys
			}
			for _, args := range [][]string{{target, "env | sort; exit 7"}, {"-tt", target, "env | sort; tty >/dev/null && exit 8"}, {target + "@gateway", "id -un"}} {
				s, k := twice(args)
				for tries := 1; s == 2 && tries < 3; tries++ { // a machine that is slow to give a sign of life costs a new one
					s, k = twice(args)
				}
				if s != 1 || k > 1 {
					t.Errorf("%v: two connections asked for %d sessions and %d keys", args, s, k)
				}
			}
		})
	}
}

// plain leaves out what differs between any two connections: ports and terminals.
func plain(text string) string {
	return regexp.MustCompile(`(?m)^(SSH_(CLIENT|CONNECTION|TTY)|XDG_SESSION_ID)=.*$`).ReplaceAllString(text, "$1")
}
