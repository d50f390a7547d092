package gateway

import (
	"crypto/rand"
	"log/slog"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestTheNextConnectionTakesOverTheSessionOfTheLast(t *testing.T) {
	w := warmWorld(t, worldOptions{banner: "no trespassing\n"})
	var banners []string
	for range 3 {
		login := as("ec2-user@"+worldInstance, w.keys["alice"])
		client := w.mustConnect(t, login)
		if out, errs, status := run(t, client, "exit 7"); out != "" || errs != "" || status != 7 {
			t.Errorf("printed %q and %q, status %d", out, errs, status)
		}
		banners = append(banners, login.banner.String())
		w.leave(t, client)
	}
	outer := w.mustConnect(t, as("x", w.keys["alice"]))
	inner, err := w.jump(t, outer, worldInstance+":22", as("ec2-user", w.keys["alice"]))
	if err != nil {
		t.Fatal(err)
	}
	if out, _, _ := run(t, inner, "whoami"); out != "ec2-user\n" {
		t.Errorf("whoami: %q", out)
	}
	if started, pushed := w.cloud.started(), len(w.cloud.pushed); started != 1 || pushed != 1 {
		t.Errorf("four connections started %d sessions and pushed %d keys", started, pushed)
	}
	if banners[0] != "no trespassing\n" || banners[1] != banners[0] {
		t.Errorf("the machine's banner: at first %q, then %q", banners[0], banners[1])
	}
	opened, reused := w.audit.waitFor(t, EventUpstreamOpened), w.audit.waitFor(t, EventUpstreamReused)
	if reused.SessionID != opened.SessionID || reused.HostKey != opened.HostKey || reused.Person != "alice" || reused.Ref == opened.Ref {
		t.Errorf("opened as %+v, audited again as %+v", opened, reused)
	}
}

// TestASessionIsNotLeftTo has the session of one connection wait, and then another come for which it is not.
func TestASessionIsNotLeftTo(t *testing.T) {
	const policy = `@id("all") permit (principal, action, resource);`
	for name, test := range map[string]struct {
		user, key string // of the second connection; ec2-user and alice where empty
		between   func(t *testing.T, w *world)
		also      func(t *testing.T, w *world, client *ssh.Client) // on the first
	}{
		"another person":            {key: "bob"},
		"another user":              {user: "root"},
		"another key of the person": {key: "alice-second"},
		"who comes after a reload":  {between: func(t *testing.T, w *world) { w.srv.Reload(w.directory(t), policyOf(t, policy)) }},
		"who comes after a reboot":  {between: func(_ *testing.T, w *world) { w.machine.cut() }},
		"who comes to another pin":  {between: func(_ *testing.T, w *world) { w.srv.cfg.Verifier.(*pickyVerifier).refuse.Store(true) }},
		"who has lost the role": {between: func(_ *testing.T, w *world) {
			w.cloud.refuseCall("role", &authz.Refusal{Reason: authz.ReasonAccessDenied})
		}},
		"a second at the same time":  {between: func(t *testing.T, w *world) { w.stay(t) }},
		"who comes after an agent":   {also: func(t *testing.T, _ *world, client *ssh.Client) { askForAgent(t, client) }},
		"who comes after a listener": {also: func(_ *testing.T, _ *world, client *ssh.Client) { _, _ = client.Listen("tcp", "127.0.0.1:0") }},
		"who comes after X11": {also: func(t *testing.T, _ *world, client *ssh.Client) {
			askFor(t, client, "x11-req", ssh.Marshal(struct {
				Single         bool
				Protocol, Data string
				Screen         uint32
			}{false, "MIT-MAGIC-COOKIE-1", "00", 0}))
		}},
	} {
		t.Run(name, func(t *testing.T) {
			w := warmWorld(t, worldOptions{policy: policy})
			w.visitMachine(t, "ec2-user", w.keys["alice"], func(client *ssh.Client) {
				if test.also != nil {
					test.also(t, w, client)
				}
			})
			if test.between != nil {
				test.between(t, w)
			}
			before := w.cloud.started()
			user, key := "ec2-user", "alice"
			if test.user != "" {
				user = test.user
			}
			if test.key != "" {
				key = test.key
			}
			w.visitMachine(t, user, w.keys[key], nil)
			if w.cloud.started() != before+1 {
				t.Error("it got the session")
			}
		})
	}
}

// TestACertificateThatLeavesLessGetsASessionOfItsOwn: the machine may have been told what the first certificate leaves, and keeps to that.
func TestACertificateThatLeavesLessGetsASessionOfItsOwn(t *testing.T) {
	w := warmWorld(t, worldOptions{})
	ca := newKey(t)
	w.people[0].Keys = append(w.people[0].Keys, `cert-authority,principals="alice" `+authorized(ca))
	w.srv.Reload(w.directory(t), policyOf(t, ""))
	certificate := func(extensions map[string]string) ssh.Signer {
		key := newKey(t)
		cert := &ssh.Certificate{
			Key: key.PublicKey(), CertType: ssh.UserCert, ValidPrincipals: []string{"alice"}, ValidBefore: ssh.CertTimeInfinity,
			Permissions: ssh.Permissions{Extensions: extensions},
		}
		if err := cert.SignCert(rand.Reader, ca); err != nil {
			t.Fatal(err)
		}
		signer, err := ssh.NewCertSigner(cert, key)
		if err != nil {
			t.Fatal(err)
		}
		return signer
	}
	terminal := map[string]string{"permit-pty": ""}
	for i, step := range []struct {
		extensions map[string]string
		sessions   int
	}{{nil, 1}, {terminal, 2}, {terminal, 2}, {nil, 2}} {
		w.visitMachine(t, "ec2-user", certificate(step.extensions), nil)
		if got := w.cloud.started(); got != step.sessions {
			t.Errorf("after login %d: %d sessions, want %d", i+1, got, step.sessions)
		}
	}
}

// stay comes for the session that waits, and stays.
func (w *world) stay(t *testing.T) {
	t.Helper()
	client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
	holdCat(t, client, true)
	if w.cloud.started() != 1 {
		t.Error("it did not get the session")
	}
}

func askForAgent(t *testing.T, client *ssh.Client) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close() }()
	_ = agent.RequestAgentForwarding(session) // the machine of these tests refuses; that it was asked counts
	if _, err := session.Output("whoami"); err != nil {
		t.Fatal(err)
	}
}

func askFor(t *testing.T, client *ssh.Client, request string, payload []byte) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = session.Close() }()
	if _, err := session.SendRequest(request, true, payload); err != nil {
		t.Fatal(err)
	}
	if _, err := session.Output("whoami"); err != nil {
		t.Fatal(err)
	}
}

func TestWhoMayNoLongerComeFindsNoSession(t *testing.T) {
	w := warmWorld(t, worldOptions{})
	w.visitMachine(t, "ec2-user", w.keys["alice"], nil)
	people := w.people
	w.people = people[1:]
	w.srv.Reload(w.directory(t), w.srv.rules.Load().policy)
	if _, err := w.connect(t, as("ec2-user@"+worldInstance, w.keys["alice"])); err == nil {
		t.Error("alice got in")
	}
	testkit.Eventually(t, "the end of the session", func() bool { return w.cloud.open() == 0 })
}

func TestAWaitingSessionMakesRoomForALane(t *testing.T) {
	w := warmWorld(t, worldOptions{limits: Limits{LanesPerPerson: 1}})
	w.visitMachine(t, "ec2-user", w.keys["alice"], nil)
	place := worldAccount + "/eu-west-1/" + worldInstance
	if got := w.lanesTo(place); got != 1 {
		t.Errorf("%d seats are taken by one session that waits", got)
	}
	client := w.mustConnect(t, as("root@"+worldInstance, w.keys["alice"]))
	holdCat(t, client, true)
	holdCat(t, client, false) // needs the seat
	testkit.Eventually(t, "the end of the session that waited", func() bool { return w.cloud.open() == 2 && w.lanesTo(place) == 1 })
}

func TestASessionWaitsNoLongerThanTheStayMightHaveLasted(t *testing.T) {
	w := warmWorld(t, worldOptions{policy: `@id("all") @max_session("1m") permit (principal, action, resource);`})
	w.visitMachine(t, "ec2-user", w.keys["alice"], nil)
	w.srv.warm.mu.Lock()
	defer w.srv.warm.mu.Unlock()
	if n := len(w.srv.warm.held); n != 1 {
		t.Errorf("%d sessions wait", n)
	}
	for _, h := range w.srv.warm.held {
		if time.Until(h.until) > time.Minute {
			t.Errorf("it waits for %s", time.Until(h.until))
		}
	}
}

// The rest is about the table alone, in virtual time.

func warmTable(most int, limits Limits) (*warmLinks, *laneSeats) {
	seats := newLaneSeats(limits.WithDefaults())
	return newWarmLinks(most, seats, slog.New(slog.DiscardHandler)), seats
}

var warmAlice = warmKey{person: "alice", place: "a/r/i", osUser: "ec2-user"}

func TestAWaitingSessionEndsWhenItsTimeIsOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, seats := warmTable(2, Limits{})
		l, conn := fakeLink()
		if !w.offer(warmAlice, 0, l, time.Now().Add(time.Minute)) {
			t.Fatal("refused")
		}
		time.Sleep(time.Minute - time.Second)
		synctest.Wait()
		if closedAlready(conn.closed) || seats.taken() != 2 {
			t.Errorf("a second before: closed %v, %d seats", closedAlready(conn.closed), seats.taken())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if !closedAlready(conn.closed) || seats.taken() != 0 || w.take(t.Context(), warmAlice) != nil {
			t.Errorf("after: closed %v, %d seats", closedAlready(conn.closed), seats.taken())
		}
		w.wait()
	})
}

func TestAMachineThatDoesNotAnswerIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := warmTable(2, Limits{})
		l, conn := fakeLink()
		conn.mute = true
		w.offer(warmAlice, 0, l, time.Now().Add(time.Minute))
		if !w.promising("alice", warmAlice.place) || w.promising("bob", warmAlice.place) || w.promising("alice", "a/r/j") {
			t.Error("it is promised to the wrong ones")
		}
		began := time.Now()
		if w.take(t.Context(), warmAlice) != nil {
			t.Error("it was given all the same")
		}
		if waited := time.Since(began); waited != warmAnswer {
			t.Errorf("after %s", waited)
		}
		w.wait()
		if !closedAlready(conn.closed) {
			t.Error("it is still open")
		}
	})
}

func TestWhatAMachineOpensWhileNobodyIsThereIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, _ := warmTable(2, Limits{})
		l, conn := fakeLink()
		w.offer(warmAlice, 0, l, time.Now().Add(time.Minute))
		open := &fakeOpening{}
		conn.chans <- open
		synctest.Wait()
		if open.reason != ssh.Prohibited {
			t.Errorf("refused with %v", open.reason)
		}
		if w.take(t.Context(), warmAlice) != l {
			t.Error("and it is lost")
		}
		l.discard()
		w.wait()
	})
}

func TestTheOldestGoesFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, seats := warmTable(2, Limits{LanesPerMachine: 2})
		var conns []*fakeConn
		offer := func(key warmKey) bool {
			l, conn := fakeLink()
			conns = append(conns, conn)
			kept := w.offer(key, 0, l, time.Now().Add(time.Minute))
			if !kept {
				l.discard()
			}
			time.Sleep(time.Second)
			return kept
		}
		root, other, bob := warmAlice, warmAlice, warmAlice
		root.osUser, other.place, bob.person = "root", "a/r/j", "bob"
		for what, test := range []struct {
			key   warmKey
			ended []int // in order of the offers
		}{
			{warmAlice, nil},
			{root, nil},
			{warmAlice, []int{0}}, // instead of the one before it
			{other, []int{0, 1}},  // no room: the oldest
			{bob, []int{0, 1, 2}}, // again
			{warmAlice, []int{0, 1, 2, 3}},
		} {
			if !offer(test.key) {
				t.Errorf("%d was refused", what)
			}
			for i, conn := range conns {
				if ended := closedAlready(conn.closed); ended != slices.Contains(test.ended, i) {
					t.Errorf("after %d: session %d has ended: %v", what, i, ended)
				}
			}
		}
		if w.most = 3; offer(root) {
			t.Error("a third is held on a machine that may have two lanes")
		}
		if !w.yield("carol", "a/r/i") || w.yield("carol", "a/r/none") {
			t.Error("the wrong ones make room")
		}
		if w.drop(); w.now() != 1 || offer(root) {
			t.Error("taken in from before the reload")
		}
		w.close()
		w.wait()
		if seats.taken() != 0 {
			t.Errorf("%d seats are left", seats.taken())
		}
		l, _ := fakeLink()
		if w.offer(warmAlice, 0, l, time.Now().Add(time.Minute)) {
			t.Error("taken in after the end")
		}
		l.discard()
	})
}
