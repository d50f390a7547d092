package gateway

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestDropPercentIsSshdsFormula(t *testing.T) {
	sshd := Limits{StartupsBegin: 10, StartupsRate: 30, StartupsFull: 100}
	for n, want := range map[int]int{0: 0, 9: 0, 10: 30, 11: 30, 55: 65, 99: 99, 100: 100, 1000: 100} {
		if got := sshd.dropPercent(n); got != want {
			t.Errorf("%d open: %d percent, want %d", n, got, want)
		}
	}
	if got := (Limits{StartupsBegin: 10, StartupsRate: 100, StartupsFull: 100}).dropPercent(10); got != 100 {
		t.Errorf("rate 100: %d", got)
	}
}

func TestStartupsCountPerSource(t *testing.T) {
	s := newStartups(Limits{StartupsPerSource: 2}.WithDefaults())
	same := []string{"2001:db8:1:2::1", "2001:db8:1:2:ffff::2"}
	for _, a := range same {
		if !s.enter(netip.MustParseAddr(a)) {
			t.Fatalf("%s was dropped", a)
		}
	}
	if s.enter(netip.MustParseAddr("2001:db8:1:2::3")) {
		t.Error("a third of one /64 got in")
	}
	for _, other := range []string{"2001:db8:1:3::1", "192.0.2.1", "192.0.2.2"} {
		if !s.enter(netip.MustParseAddr(other)) {
			t.Errorf("%s was dropped", other)
		}
	}
	if !s.enter(netip.MustParseAddr("::ffff:192.0.2.1")) || s.enter(netip.MustParseAddr("192.0.2.1")) {
		t.Error("an IPv4 address in IPv6 form does not count as itself")
	}
	s.leave(netip.MustParseAddr(same[0]))
	if !s.enter(netip.MustParseAddr("2001:db8:1:2::3")) {
		t.Error("a place that was left is not free")
	}
}

func TestEarlyDropIsByChance(t *testing.T) {
	s := newStartups(Limits{StartupsBegin: 1, StartupsRate: 30, StartupsFull: 100}.WithDefaults())
	source := netip.MustParseAddr("192.0.2.1")
	s.roll = func() int { return 29 }
	if !s.enter(source) || s.enter(source) {
		t.Error("below Begin nothing is dropped, from Begin on what rolls below Rate is")
	}
	s.roll = func() int { return 30 }
	if !s.enter(source) {
		t.Error("what rolls Rate is not dropped")
	}
}

func TestTooManyBeforeLoginAreDropped(t *testing.T) {
	w := newWorld(t, worldOptions{limits: Limits{StartupsPerSource: 1}})
	silent, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	w.audit.waitFor(t, EventConnectionOpened)
	second, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	var said []byte
	testkit.Within(t, "the drop", func() { said, _ = io.ReadAll(second) })
	if string(said) != "Exceeded MaxStartups\r\n" {
		t.Errorf("dropped with %q", said)
	}
	_ = second.Close()
	_ = silent.Close()
	w.audit.waitFor(t, EventConnectionRefused)
	w.mustConnect(t, as("x", w.keys["alice"])) // the place is free again
	w.audit.waitFor(t, EventConnectionAuthenticated)
	w.mustConnect(t, as("x", w.keys["alice"])) // and a login frees it, too
}

func TestTooManyConnectionsOfOnePerson(t *testing.T) {
	w := newWorld(t, worldOptions{limits: Limits{ConnectionsPerPerson: 1}})
	first := w.mustConnect(t, as("x", w.keys["alice"]))
	l := as("x", w.keys["alice-second"])
	if _, err := w.connect(t, l); err == nil || !strings.Contains(l.banner.String(), "too many connections") {
		t.Errorf("second connection: %v, told %q", err, l.banner.String())
	}
	w.mustConnect(t, as("x", w.keys["bob"]))
	_ = first.Close()
	w.audit.wait(t, "alice's end", func(e Event) bool { return e.Event == EventConnectionClosed && e.Person == "alice" })
	testkit.Eventually(t, "the seat", func() bool { // the event comes just before it is given back
		w.srv.seats.mu.Lock()
		defer w.srv.seats.mu.Unlock()
		return w.srv.seats.byPerson["alice"] == 0
	})
}

func TestTooManyMachinesOnOneConnection(t *testing.T) {
	w := newWorld(t, worldOptions{limits: Limits{MachinesPerConnection: 1}})
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	if _, err := w.jump(t, outer, worldInstance+":22", as("ec2-user", w.keys["alice"])); err != nil {
		t.Fatal(err)
	}
	_, err := outer.Dial("tcp", worldInstance+":22")
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) || refused.Reason != ssh.ResourceShortage {
		t.Errorf("second machine: %v", err)
	}
}

func TestShutdownLetsSessionsEndAndCutsTheRest(t *testing.T) {
	w := newWorld(t, worldOptions{})
	idle := w.mustConnect(t, as("x", w.keys["alice"]))
	working := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	session, err := working.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	stdin, _ := session.StdinPipe()
	stdout, _ := session.StdoutPipe()
	if err := session.Start("cat"); err != nil {
		t.Fatal(err)
	}
	ctx, cut := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- w.srv.Shutdown(ctx) }()

	testkit.Within(t, "the end of the idle connection", func() { _ = idle.Wait() })
	if conn, err := net.Dial("tcp", w.addr); err == nil {
		_ = conn.Close()
		t.Error("the gateway still listens")
	}
	_, _ = io.WriteString(stdin, "still here")
	buf := make([]byte, 10)
	if _, err := io.ReadFull(stdout, buf); err != nil || string(buf) != "still here" {
		t.Fatalf("a working session was disturbed: %q, %v", buf, err)
	}
	cut()
	testkit.Within(t, "the end of the working connection", func() { _ = working.Wait() })
	if err := testkit.Receive(t, ended, "the end of Shutdown"); !errors.Is(err, context.Canceled) {
		t.Errorf("Shutdown: %v", err)
	}
	w.audit.wait(t, "the reason", func(e Event) bool {
		return e.Event == EventConnectionClosed && e.Reason == string(authz.ReasonShuttingDown)
	})
}

func TestShutdownWithoutConnectionsIsImmediate(t *testing.T) {
	w := newWorld(t, worldOptions{})
	_ = w.mustConnect(t, as("x", w.keys["alice"])).Close() // so that Serve is known to run
	w.audit.waitFor(t, EventConnectionClosed)
	if err := w.srv.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if err := w.srv.Serve(t.Context(), &net.TCPListener{}); !errors.Is(err, errShuttingDown) {
		t.Errorf("Serve after Shutdown: %v", err)
	}
}

func TestReloadCutsWhatIsNoLongerAllowed(t *testing.T) {
	w := newWorld(t, worldOptions{})
	alice := w.mustConnect(t, as("x", w.keys["alice"]))
	bob := w.mustConnect(t, as("x", w.keys["bob"]))
	onMachine, err := w.jump(t, bob, worldInstance+":22", as("ec2-user", w.keys["bob"]))
	if err != nil {
		t.Fatal(err)
	}
	session, err := onMachine.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var told testkit.Buffer
	session.Stderr = &told
	if _, err := session.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if err := session.Start("cat"); err != nil {
		t.Fatal(err)
	}

	t.Log("nothing changes")
	w.srv.Reload(w.directory(t), policyOf(t, ""))
	if out, _, _ := run(t, onMachine, "whoami"); out != "ec2-user\n" {
		t.Errorf("after a reload that changes nothing: %q", out)
	}

	t.Log("alice is gone, and nobody may exec on the machine any more")
	w.people = w.people[1:]
	w.srv.Reload(w.directory(t), policyOf(t, `@id("connect-only") permit (principal, action == Action::"connect", resource);`))
	testkit.Within(t, "the cut of alice", func() { _ = alice.Wait() })
	testkit.Within(t, "the cut of bob's stay", func() { _ = onMachine.Wait() })
	testkit.Within(t, "bob's session", func() { _ = session.Wait() })
	if !strings.Contains(told.String(), "exec is not permitted on "+worldInstance) {
		t.Errorf("bob was told %q", told.String())
	}
	if out, _, _ := run(t, bob, "whoami"); !strings.HasPrefix(out, "bob\n") {
		t.Errorf("bob's connection to the gateway did not survive: %q", out)
	}
	w.audit.wait(t, "alice's end", func(e Event) bool {
		return e.Event == EventConnectionClosed && e.Person == "alice" && e.Reason == string(authz.ReasonUnknownKey)
	})
}

// TestReloadCutsStaysThatWouldBeginInAnotherWay: what the new policy has in another mode, or for a shorter time, does not go on in the old.
func TestReloadCutsStaysThatWouldBeginInAnotherWay(t *testing.T) {
	const inspected, short = `@id("seen") permit (principal, action, resource);`, `@id("short") @max_session("1ms") permit (principal, action, resource);`
	for name, test := range map[string]struct{ before, after, why string }{
		"passthrough no longer": {passthroughPolicy, inspected, "no longer allows passthrough"},
		"passthrough only":      {inspected, passthroughPolicy, "allows passthrough only"},
		"a time that is over":   {inspected, short, "time that policy allows"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{policy: test.before})
			raw, err := w.mustConnect(t, as("ec2-user", w.keys["alice"])).Dial("tcp", worldInstance+":22")
			if err != nil {
				t.Fatal(err)
			}
			config := as("ec2-user", w.keys["alice"]).config(ssh.InsecureIgnoreHostKey())
			conn, chans, reqs, err := ssh.NewClientConn(raw, worldInstance, config)
			if err != nil {
				t.Fatal(err)
			}
			client := ssh.NewClient(conn, chans, reqs)
			defer func() { _ = client.Close() }()
			run(t, client, "whoami")
			w.srv.Reload(w.directory(t), policyOf(t, test.before))
			run(t, client, "whoami") // nothing has changed
			w.srv.Reload(w.directory(t), policyOf(t, test.after))
			testkit.Within(t, "the cut", func() { _ = client.Wait() })
			w.audit.wait(t, "the reason", func(e Event) bool {
				return e.Event == EventTargetLeft && e.Reason == string(authz.ReasonNotPermitted) && strings.Contains(e.Cause, test.why)
			})
		})
	}
}

func TestPolicyLimitsTheTimeOnAMachine(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `@id("short") @max_session("50ms") permit (principal, action, resource);`})
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	testkit.Within(t, "the end of the time", func() { _ = client.Wait() })
	w.audit.wait(t, "the reason", func(e Event) bool {
		return e.Event == EventTargetLeft && e.Reason == string(authz.ReasonNotPermitted) && strings.Contains(e.Cause, "time that policy allows")
	})
}

func TestASilentClientIsCut(t *testing.T) {
	w := newWorld(t, worldOptions{limits: Limits{Keepalive: 20_000_000, KeepaliveCount: 2}}) // 20 ms
	raw, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	conn, chans, reqs, err := ssh.NewClientConn(raw, w.addr, as("x", w.keys["alice"]).config(ssh.InsecureIgnoreHostKey()))
	if err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "the cut", func() { _ = conn.Wait() }) // nobody answers requests meanwhile
	bridge.Leg{Conn: conn, Chans: chans, Reqs: reqs}.Discard()
	w.audit.wait(t, "the reason", func(e Event) bool { return e.Event == EventConnectionClosed && e.Reason == string(authz.ReasonTimeout) })
}

func TestNewSaysAllThatIsMissing(t *testing.T) {
	_, err := New(Config{})
	for _, field := range []string{"Cloud", "Directory", "Policy", "HostKeys", "Issuer", "Verifier"} {
		if err == nil || !strings.Contains(err.Error(), "Config."+field+" is required") {
			t.Errorf("%s is not named in %v", field, err)
		}
	}
}

// TestAFaultEndsOneConnection: a panic in what one client asked for costs the others nothing, and that client gets an answer.
func TestAFaultEndsOneConnection(t *testing.T) {
	w := newWorld(t, worldOptions{})
	bystander := w.mustConnect(t, as("x", w.keys["bob"]))
	jumping := w.mustConnect(t, as("x", w.keys["alice"]))
	for _, call := range []string{"resolve", "start", "push"} {
		w.cloud.mu.Lock()
		w.cloud.before = func(now string) {
			if now == call {
				panic("a fault in " + call)
			}
		}
		w.cloud.mu.Unlock()
		osUser := "after-" + call // for whom no key has been pushed yet
		var err error
		testkit.Within(t, "an answer to the jump", func() {
			var inner *ssh.Client
			if inner, err = w.jump(t, jumping, worldInstance+":22", as(osUser, w.keys["alice"])); err == nil {
				_, err = inner.NewSession()
			}
		})
		if err == nil || !strings.Contains(err.Error(), "something went wrong in the gateway") || strings.Contains(err.Error(), "a fault in") {
			t.Errorf("jump, fault in %s: told %v", call, err)
		}
		testkit.Within(t, "an end of the direct login", func() {
			var direct *ssh.Client
			if direct, err = w.connect(t, as(osUser+"@"+worldInstance, w.keys["alice"])); err == nil {
				_, err = direct.NewSession()
			}
		})
		if err == nil {
			t.Errorf("direct, fault in %s: no error", call)
		}
	}
	if out, _, _ := run(t, bystander, "whoami"); !strings.HasPrefix(out, "bob\n") {
		t.Errorf("the bystander got %q", out)
	}
	if log := w.log.String(); strings.Count(log, "a fault in") < 6 {
		t.Errorf("the log tells of %d faults", strings.Count(log, "a fault in"))
	}
}
