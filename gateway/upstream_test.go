package gateway

import (
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/hostkeys"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// TestWhyTheMachineCannotBeLoggedInTo plays a machine's port in every bad way.
func TestWhyTheMachineCannotBeLoggedInTo(t *testing.T) {
	for name, test := range map[string]struct {
		port   func(t *testing.T) (net.Conn, error)
		change func(w *world)
		limits Limits
		reason authz.Reason
		told   string
	}{
		"the agent says that nothing listens": {
			port:   func(*testing.T) (net.Conn, error) { return nil, ssmproto.ErrConnectToPort },
			reason: authz.ReasonPortRefused, told: "nothing answers on port 22 of " + worldInstance,
		},
		"closed before a byte": {
			port:   func(t *testing.T) (net.Conn, error) { near, far := testkit.TCPPair(t); return near, far.Close() },
			reason: authz.ReasonPortRefused, told: "nothing answers on port 22",
		},
		"silent": {
			port:   func(t *testing.T) (net.Conn, error) { near, _ := testkit.TCPPair(t); return near, nil },
			limits: Limits{BannerTimeout: 200 * time.Millisecond},
			reason: authz.ReasonPortRefused, told: "nothing answers on port 22",
		},
		"closed after its version": {
			port: func(t *testing.T) (net.Conn, error) {
				near, far := testkit.TCPPair(t)
				_, _ = io.WriteString(far, "SSH-2.0-short\r\n")
				return near, far.(*net.TCPConn).CloseWrite()
			},
			reason: authz.ReasonSessionEnded, told: "closed the connection during login",
		},
		"ended by the service": {
			port: func(t *testing.T) (net.Conn, error) {
				near, _ := testkit.TCPPair(t)
				return failingConn{near, &ssmproto.SessionEndedError{SessionID: "s", Output: "maximum duration"}}, nil
			},
			reason: authz.ReasonPortRefused, told: "nothing answers on port 22", // before the first byte there is no telling
		},
		"no Instance Connect on it": {
			change: func(w *world) { w.cloud.machine = &machine{trusted: map[string][]string{}} }, // pushes reach nobody
			reason: authz.ReasonKeyRefused, told: "did not let user ec2-user in",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{limits: test.limits})
			addr := w.machine.addr
			w.cloud.port = func(int) (net.Conn, error) {
				if test.port == nil {
					return net.Dial("tcp", addr)
				}
				return test.port(t)
			}
			if test.change != nil {
				test.change(w)
			}
			client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
			_, err := client.NewSession()
			var refused *ssh.OpenChannelError
			if !errors.As(err, &refused) || !strings.Contains(refused.Message, test.told) {
				t.Errorf("told %v, want %q", err, test.told)
			}
			if e := w.audit.waitFor(t, EventUpstreamFailed); e.Reason != string(test.reason) {
				t.Errorf("audited as %s (%s), want %s", e.Reason, e.Cause, test.reason)
			}
			_ = client.Close()
		})
	}
}

// failingConn fails to read.
type failingConn struct {
	net.Conn
	err error
}

func (f failingConn) Read([]byte) (int, error) { return 0, f.err }

func TestChangedHostKeyIsAHardRefusalWithBothFingerprints(t *testing.T) {
	store := hostkeys.NewMemoryStore()
	w := newWorld(t, worldOptions{cfg: func(c *Config) { c.Verifier = &hostkeys.Verifier{Store: store} }})
	before := newKey(t).PublicKey()
	place := worldAccount + "/eu-west-1/" + worldInstance
	if _, err := store.PutIfAbsent(t.Context(), hostkeys.NewPin(place, hostkeys.BelievedFirstUse, before)); err != nil {
		t.Fatal(err)
	}
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	_, err := client.NewSession()
	for _, want := range []string{ssh.FingerprintSHA256(before), ssh.FingerprintSHA256(w.machine.hostKey.PublicKey()), "ssm-ssh-gateway pins rm " + place} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("told %v, want %q", err, want)
		}
	}
	if w.machine.offered != 0 {
		t.Error("a key was offered to a machine that is not believed")
	}
}

// TestStartSessionDoesNotWaitForTheInnerLogin: the person's login and the session are opened side by side.
func TestStartSessionDoesNotWaitForTheInnerLogin(t *testing.T) {
	w := newWorld(t, worldOptions{})
	started := make(chan string, 4)
	w.cloud.before = func(call string) {
		if call == "start" || call == "push" {
			started <- call
		}
	}
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	raw, err := outer.Dial("tcp", worldInstance+":22") // and no inner login
	if err != nil {
		t.Fatal(err)
	}
	if call := testkit.Receive(t, started, "StartSession"); call != "start" {
		t.Errorf("first call is %s", call)
	}
	_ = raw.Close()
}

// TestKeyPushRunsBesideKeyExchange: neither waits for the other to be finished.
func TestKeyPushRunsBesideKeyExchange(t *testing.T) {
	w := newWorld(t, worldOptions{})
	version := make(chan struct{})
	var once sync.Once
	w.cloud.port = func(int) (net.Conn, error) {
		raw, err := net.Dial("tcp", w.machine.addr)
		return &wroteConn{raw, func() { once.Do(func() { close(version) }) }}, err
	}
	w.cloud.before = func(call string) {
		if call == "push" {
			testkit.Receive(t, version, "our version line on the way to the machine, while the push is under way")
		}
	}
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	if out, _, _ := run(t, client, "whoami"); out != "ec2-user\n" {
		t.Errorf("whoami: %q", out)
	}
}

// TestTheConsoleIsReadBesideStartSession, the first time; once the machine's key is known, it is not read.
func TestTheConsoleIsReadBesideStartSession(t *testing.T) {
	w := newWorld(t, worldOptions{})
	read := make(chan struct{}, 2)
	w.cloud.before = func(call string) {
		switch call {
		case "console":
			read <- struct{}{}
		case "start":
			if w.cloud.started() == 0 {
				testkit.Receive(t, read, "the reading of the console, while StartSession is under way")
			}
		}
	}
	for range 2 {
		w.visitMachine(t, "ec2-user", w.keys["alice"], nil)
	}
	if len(read) != 0 {
		t.Error("it was read again")
	}
}

// wroteConn tells of writes.
type wroteConn struct {
	net.Conn
	wrote func()
}

func (c *wroteConn) Write(b []byte) (int, error) {
	c.wrote()
	return c.Conn.Write(b)
}

// TestNewSessionKeysInTheMiddle has a machine that renews them every few bytes: its host key is checked at the login, and only compared from then on.
func TestNewSessionKeysInTheMiddle(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.machine.rekeyAfter.Store(256)
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	input := strings.Repeat("0123456789abcdef", 4096)
	session.Stdin = strings.NewReader(input)
	output, err := session.Output("cat")
	if err != nil || string(output) != input {
		t.Errorf("%d of %d bytes came back: %v", len(output), len(input), err)
	}
	if err := sameHostKey(newKey(t).PublicKey(), newKey(t).PublicKey()); err == nil {
		t.Error("another host key in the middle is accepted")
	}
}

func TestSessionEndedByTheServiceIsToldToTheOpenSession(t *testing.T) {
	w := newWorld(t, worldOptions{})
	end := make(chan struct{})
	w.cloud.port = func(int) (net.Conn, error) {
		raw, err := net.Dial("tcp", w.machine.addr)
		return &endingConn{Conn: raw, end: end, err: &ssmproto.SessionEndedError{SessionID: "s", Output: "idle for 20 minutes"}}, err
	}
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	session, err := client.NewSession()
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
	close(end)
	testkit.Within(t, "the end of the session", func() { _ = session.Wait() })
	if !strings.Contains(told.String(), "Session Manager ended the session (idle for 20 minutes)") {
		t.Errorf("told %q", told.String())
	}
	w.audit.wait(t, "the reason", func(e Event) bool { return e.Event == EventTargetLeft && e.Reason == string(authz.ReasonSessionEnded) })
}

// endingConn ends as the service ends a session: with an error of its own.
type endingConn struct {
	net.Conn
	end <-chan struct{}
	err error
}

func (c *endingConn) Read(b []byte) (int, error) {
	type result struct {
		n   int
		err error
	}
	got := make(chan result, 1)
	go func() {
		n, err := c.Conn.Read(b)
		got <- result{n, err}
	}()
	select {
	case r := <-got:
		return r.n, r.err
	case <-c.end:
		_ = c.Conn.Close()
		<-got // b is the caller's again
		return 0, c.err
	}
}

func TestLeavingWhileConnectingLeavesNothingOpen(t *testing.T) {
	w := newWorld(t, worldOptions{cfg: func(cfg *Config) { cfg.ProgressAfter = time.Millisecond }})
	dialed := make(chan struct{})
	w.cloud.port = func(int) (net.Conn, error) {
		close(dialed)
		near, _ := testkit.TCPPair(t) // says nothing
		return near, nil
	}
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	testkit.Receive(t, dialed, "the session")
	_ = client.Close()
	w.audit.waitFor(t, EventConnectionClosed) // the world's end checks that no session is left
}
