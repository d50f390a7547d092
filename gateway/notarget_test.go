package gateway

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// fleetOf adds machines to the list, which are only there to be listed.
func (w *world) fleetOf(names ...string) {
	w.cloud.mu.Lock()
	defer w.cloud.mu.Unlock()
	for i, name := range names {
		w.cloud.others = append(w.cloud.others, &authz.Instance{
			ID: "i-0123456789abcde" + string(rune('a'+i)) + "0", Account: worldAccount, Region: "us-east-1", Name: name, State: "running",
		})
	}
}

// TestAnswers: data on stdout, everything else on stderr, and the exit status that scripts rely on.
func TestAnswers(t *testing.T) {
	w := newWorld(t, worldOptions{cfg: func(cfg *Config) { cfg.AccountAliases = map[string]string{worldAccount: "dev"} }})
	w.fleetOf("db-1", "evil\x1b[31m\u202ename")
	client := w.mustConnect(t, as("x", w.keys["alice"]))
	for _, test := range []struct {
		command        string
		stdout, stderr string // what it contains; empty: nothing may be there
		status         int
	}{
		{"ls", worldInstance, "", 0},
		{"ls WEB dev", worldInstance, "", 0},
		{"ls us-east-1 db", "db-1", "", 0},
		{"ls nothing-such", "", "no machine that you may connect to matches nothing-such", 0},
		{"ls evil", `evil\u001b[31m\u202ename`, "", 0},
		{"ls --json evil", `evil\u001b[31m\u202ename`, "", 0},
		{"ls --yaml", "", "unknown option --yaml", 2},
		{"whoami", "alice\n", "", 0},
		{"whoami --json", `"person": "alice"`, "", 0},
		{"whoami now", "", "whoami takes no now", 2},
		{"sessions", "", "you are on no machine", 0},
		{"sessions --json", "[]\n", "", 0},
		{"help", "ssh -J GATEWAY", "", 0},
		{"rm -rf /", "", "unknown command rm -rf /", 127},
	} {
		out, errs, status := run(t, client, test.command)
		for _, part := range []struct{ what, got, want string }{{"stdout", out, test.stdout}, {"stderr", errs, test.stderr}} {
			if part.want == "" && part.got != "" || !strings.Contains(part.got, part.want) {
				t.Errorf("%s: %s is %q, want %q", test.command, part.what, part.got, part.want)
			}
		}
		if status != test.status {
			t.Errorf("%s: status %d, want %d", test.command, status, test.status)
		}
	}
	var listed []machineView
	out, _, _ := run(t, client, "ls --json evil")
	if err := json.Unmarshal([]byte(out), &listed); err != nil || len(listed) != 1 || listed[0].Name != "evil\x1b[31m\u202ename" || listed[0].AccountAlias != "dev" {
		t.Errorf("ls --json: %v %+v", err, listed)
	}
}

// TestSessionsAreOnesOwn: a person sees their stays, with what they have carried, and nobody else's.
func TestSessionsAreOnesOwn(t *testing.T) {
	w := newWorld(t, worldOptions{})
	session, err := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"])).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	in, _ := session.StdinPipe()
	out, _ := session.StdoutPipe()
	if err := session.Start("cat"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(in, "12345"); err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "the echo", func() { _, err = io.ReadFull(out, make([]byte, 5)) })
	if err != nil {
		t.Fatal(err)
	}
	listed, _, _ := run(t, w.mustConnect(t, as("x", w.keys["alice-second"])), "sessions --json")
	var stays []stayView
	if err := json.Unmarshal([]byte(listed), &stays); err != nil || len(stays) != 1 {
		t.Fatalf("%v in %s", err, listed)
	}
	if s := stays[0]; s.Target != worldInstance || s.OSUser != "ec2-user" || s.Mode != modeInspected || s.BytesIn != 5 || s.BytesOut != 5 || s.Ref == "" {
		t.Errorf("%+v", s)
	}
	if out, errs, _ := run(t, w.mustConnect(t, as("x", w.keys["bob"])), "sessions"); out != "" || !strings.Contains(errs, "no machine") {
		t.Errorf("bob sees %q %q", out, errs)
	}
}

// desk is somebody at a terminal.
type desk struct {
	t       *testing.T
	session *ssh.Session
	keys    io.Writer
	screen  testkit.Buffer
	more    chan struct{} // a token when there is more on the screen
	errs    testkit.Buffer
}

// sit opens a session with a terminal and a shell.
func sit(t *testing.T, client *ssh.Client) *desk {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatal(err)
	}
	d := &desk{t: t, session: session, more: make(chan struct{}, 1)}
	d.keys, _ = session.StdinPipe()
	session.Stdout, session.Stderr = d, &d.errs
	_ = session.Setenv("LANG", "C.UTF-8")
	if err := session.RequestPty("xterm", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	if err := session.Shell(); err != nil {
		t.Fatal(err)
	}
	return d
}

// Write takes what is shown.
func (d *desk) Write(p []byte) (int, error) {
	n, err := d.screen.Write(p)
	select {
	case d.more <- struct{}{}:
	default:
	}
	return n, err
}

// sees waits for a text.
func (d *desk) sees(want string) {
	d.t.Helper()
	limit := time.After(testkit.Patience)
	for !strings.Contains(d.screen.String(), want) {
		select {
		case <-d.more:
		case <-limit:
			d.t.Fatalf("never saw %q on %q (stderr %q)", want, d.screen.String(), d.errs.String())
		}
	}
}

func (d *desk) types(text string) {
	d.t.Helper()
	if _, err := io.WriteString(d.keys, text); err != nil {
		d.t.Fatal(err)
	}
}

// leaves waits for the end and gives the exit status.
func (d *desk) leaves() int {
	d.t.Helper()
	var err error
	testkit.Within(d.t, "the end of the session", func() { err = d.session.Wait() })
	var exit *ssh.ExitError
	switch {
	case errors.As(err, &exit):
		return exit.ExitStatus()
	case err != nil:
		d.t.Fatalf("wait: %v", err)
	}
	return 0
}

// TestChoosing: filter, complete, choose, another size of the window meanwhile, what is typed ahead, and the machine's own exit status.
func TestChoosing(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.fleetOf("db-1", "db-2", "web-10")
	d := sit(t, w.mustConnect(t, as("x", w.keys["alice"])))
	d.sees("web-10")
	d.sees("machine: ")
	d.types("db\r")
	d.sees("   2   i-0123456789abcdeb0  db-2")
	d.types("nothing\r")
	d.sees("no machine that you may connect to matches nothing")
	if err := d.session.WindowChange(50, 132); err != nil {
		t.Fatal(err)
	}
	if _, err := d.session.SendRequest("keepalive@openssh.com", true, nil); err != nil { // answered after the one before
		t.Fatal(err)
	}
	d.types("ubuntu@WE\t\rweb-1\r\n") // completed to web-1, which is a name of its own though web-10 begins with it; the second line is for the machine
	d.sees("ubuntu here, after pty-req, xterm 132x50, env")
	d.sees("echo web-1") // typed ahead
	d.types("exit 7\r\n")
	if status := d.leaves(); status != 7 {
		t.Errorf("status %d", status)
	}
	stay := w.audit.waitFor(t, EventTargetAllowed)
	if stay.OSUser != "ubuntu" || stay.Target != worldInstance || stay.Via == "" || stay.Mode != modeInspected {
		t.Errorf("audit: %+v", stay)
	}
	w.audit.waitFor(t, EventTargetLeft)
}

// TestChoosingAsks for the user, and offers the likely one. The connection around the session goes on.
func TestChoosingAsks(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `@id("ubuntu") permit (principal, action, resource) when { context.osUser == "ubuntu" };`})
	client := w.mustConnect(t, as("ubuntu", w.keys["alice"]))
	d := sit(t, client)
	d.sees("machine: ")
	d.types("1\r")
	d.sees("user on web-1 [ubuntu]: ")
	d.types("root\r")
	d.sees("you may not connect to")
	d.types("web-1\r\r")
	d.sees("ubuntu here")
	d.types("exit 0\r\n")
	if status := d.leaves(); status != 0 {
		t.Errorf("status %d", status)
	}
	if out, _, status := run(t, client, "whoami"); status != 0 || !strings.HasPrefix(out, "alice") {
		t.Errorf("afterwards: %q %d", out, status)
	}
}

// TestLeavingWithoutChoice: Ctrl-D is an end in good order, Ctrl-C is told from it, and who may reach nothing hears so.
func TestLeavingWithoutChoice(t *testing.T) {
	w := newWorld(t, worldOptions{policy: `@id("alice") permit (principal == User::"alice", action, resource);`})
	client := w.mustConnect(t, as("x", w.keys["alice"]))
	for key, want := range map[string]int{"\x04": 0, "\x03": 130} {
		d := sit(t, client)
		d.sees("machine: ")
		d.types(key)
		if status := d.leaves(); status != want {
			t.Errorf("%q: status %d, want %d", key, status, want)
		}
	}
	d := sit(t, w.mustConnect(t, as("x", w.keys["bob"])))
	if status := d.leaves(); status != 1 || !strings.Contains(d.errs.String(), "no machine that you may connect to") {
		t.Errorf("bob: status %d, %q", status, d.errs.String())
	}
}

// TestChosenMachineIsOutOfReach: the reason is on stderr, and the status is ssh's own for failures.
func TestChosenMachineIsOutOfReach(t *testing.T) {
	w := newWorld(t, worldOptions{})
	w.cloud.refuseCall("start", &authz.Refusal{Reason: authz.ReasonTargetNotConnected, Subject: worldInstance})
	d := sit(t, w.mustConnect(t, as("x", w.keys["alice"])))
	d.sees("machine: ")
	d.types("ec2-user@1\r")
	if status := d.leaves(); status != bridge.RefusedStatus || !strings.Contains(d.errs.String(), "is not connected") {
		t.Errorf("status %d, %q", status, d.errs.String())
	}
}

// TestPlainListWithoutTerminal: ssh -T gateway, and a key that may have no terminal.
func TestPlainListWithoutTerminal(t *testing.T) {
	w := newWorld(t, worldOptions{})
	session, err := w.mustConnect(t, as("x", w.keys["alice"])).NewSession()
	if err != nil {
		t.Fatal(err)
	}
	var out testkit.Buffer
	session.Stdout = &out
	if err := session.Shell(); err != nil {
		t.Fatal(err)
	}
	testkit.Within(t, "the list", func() { err = session.Wait() })
	if err != nil || !strings.Contains(out.String(), worldInstance) {
		t.Errorf("%v %q", err, out.String())
	}
}

// TestSlowMachines: the first session is told what it waits for, on stderr only, and its command runs as if nothing had been.
func TestSlowMachines(t *testing.T) {
	for name, test := range map[string]struct {
		refusal error
		status  int
		want    string
	}{
		"in the end it is there": {nil, 3, "starting a session on " + worldInstance + "\r\nsecond in the queue\r\n"},
		"in the end it is not": {
			&authz.Refusal{Reason: authz.ReasonTargetNotConnected, Subject: worldInstance}, bridge.RefusedStatus, "the SSM agent of " + worldInstance + " is not connected",
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, worldOptions{cfg: func(cfg *Config) { cfg.ProgressAfter = time.Millisecond }})
			d := &desk{t: t, more: make(chan struct{}, 1)}
			release := make(chan struct{})
			goOn := sync.OnceFunc(func() { close(release) })
			defer goOn()
			w.cloud.port = func(int) (net.Conn, error) {
				<-release
				if test.refusal != nil {
					return nil, test.refusal
				}
				return net.Dial("tcp", w.machine.addr)
			}
			client := w.mustConnect(t, as("ec2-user@"+worldInstance, w.keys["alice"]))
			session := slowSession(t, client, d)
			d.sees("starting a session on")
			w.stays()[0].herald.say("second in the queue")
			d.sees("second in the queue")
			goOn()
			if status := testkit.Receive(t, session, "the end of the command"); status != test.status {
				t.Errorf("status %d, told %q", status, d.screen.String())
			}
			d.sees(test.want)
		})
	}
}

// slowSession runs "exit 3" with d watching stderr, beside the test; stdout must stay empty. The library's own session shows nothing before the program runs.
func slowSession(t *testing.T, client *ssh.Client, d *desk) <-chan int {
	t.Helper()
	ended := make(chan int, 1)
	go func() {
		status := -1
		defer func() { ended <- status }()
		ch, reqs, err := client.OpenChannel("session", nil)
		if err != nil {
			return
		}
		go func() { _, _ = io.Copy(d, ch.Stderr()) }()
		if agreed, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ Command string }{"exit 3"})); err != nil || !agreed {
			t.Errorf("exec: %t, %v", agreed, err)
		}
		if out, _ := io.ReadAll(ch); len(out) > 0 {
			t.Errorf("stdout is %q", out)
		}
		for req := range reqs {
			var exit struct{ Status uint32 }
			if req.Type == "exit-status" && ssh.Unmarshal(req.Payload, &exit) == nil {
				status = int(exit.Status)
			}
			_ = ch.Close()
		}
	}()
	return ended
}

// stays are the visits under way.
func (w *world) stays() []*visit {
	var all []*visit
	for _, c := range w.srv.connections() {
		c.mu.Lock()
		for v := range c.visits {
			all = append(all, v)
		}
		c.mu.Unlock()
	}
	return all
}

// TestNobodyIsTold: Tell without a stay, after the machine is there, or with more than anybody would read, does nothing.
func TestNobodyIsTold(t *testing.T) {
	Tell(t.Context(), "to nobody")
	var h herald
	ctx := withHerald(t.Context(), &h)
	for range 2 * heraldPending {
		Tell(ctx, "line")
	}
	var told []string
	if !h.begin(func(line string) { told = append(told, line) }) || len(told) != heraldPending {
		t.Errorf("told %q", told)
	}
	h.end()
	Tell(ctx, "late")
	if slices.Contains(told, "late") || h.begin(func(string) {}) {
		t.Error("told after the end")
	}
}
