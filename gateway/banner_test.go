package gateway

import (
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// TestBannerOfAJump: byte by byte what the machine says, as a banner of the inner login and nowhere else.
func TestBannerOfAJump(t *testing.T) {
	said := strings.Repeat("authorized \x1b[31muse\n", 5000)
	w := newWorld(t, worldOptions{banner: said})
	outer := w.mustConnect(t, as("anybody", w.keys["alice"]))
	inner := as("ec2-user", w.keys["alice"])
	client, err := w.jump(t, outer, worldInstance+":22", inner)
	if err != nil {
		t.Fatal(err)
	}
	if told := inner.banner.String(); told != said {
		t.Errorf("of %d bytes %d came: %q", len(said), len(told), told[:min(len(told), 100)])
	}
	if out, errs, status := run(t, client, "whoami"); out != "ec2-user\n" || errs != "" || status != 0 {
		t.Errorf("whoami said %q and %q with status %d", out, errs, status)
	}
}

// TestBannerOfASlowMachine: a login is not held for long, and what the machine says later comes on stderr of the session, made safe, because clients show that as it is.
func TestBannerOfASlowMachine(t *testing.T) {
	w := newWorld(t, worldOptions{banner: "authorized \x1b[31muse\n", cfg: func(cfg *Config) { cfg.ProgressAfter = time.Millisecond }})
	release := make(chan struct{})
	goOn := sync.OnceFunc(func() { close(release) })
	defer goOn()
	w.cloud.port = func(int) (net.Conn, error) {
		<-release
		return net.Dial("tcp", w.machine.addr)
	}
	l := as("ec2-user@"+worldInstance, w.keys["alice"])
	client := w.mustConnect(t, l)
	d := &desk{t: t, more: make(chan struct{}, 1)}
	session := slowSession(t, client, d)
	d.sees("starting a session on")
	goOn()
	if status := testkit.Receive(t, session, "the end of the command"); status != 3 {
		t.Errorf("status %d", status)
	}
	d.sees(`authorized \u001b[31muse`)
	if told := l.banner.String(); told != "" {
		t.Errorf("beside that, a banner: %q", told)
	}
}

// TestLoginThatEndsWhileItIsHeld: the session that was opened ahead ends too, which the world's own check wants to see.
func TestLoginThatEndsWhileItIsHeld(t *testing.T) {
	w := newWorld(t, worldOptions{cfg: func(cfg *Config) { cfg.ProgressAfter = time.Hour }})
	dialed, release := make(chan struct{}), make(chan struct{})
	w.cloud.port = func(int) (net.Conn, error) {
		close(dialed)
		<-release
		return net.Dial("tcp", w.machine.addr)
	}
	over := make(chan struct{})
	go func() {
		defer close(over)
		_, _ = w.connect(t, as("ec2-user@"+worldInstance, w.keys["alice"])) // with or without success: the server's last word may still get out
	}()
	testkit.Receive(t, dialed, "the session that is opened ahead")
	if stays := w.stays(); len(stays) != 1 {
		t.Errorf("%d stays while the login is held", len(stays))
	}
	for _, c := range w.srv.connections() {
		c.cancel(errShuttingDown)
	}
	w.audit.waitFor(t, EventConnectionRefused)
	close(release)
	w.audit.waitFor(t, EventTargetLeft)
	testkit.Receive(t, over, "the end of the login")
}

func TestBannerIsBoundedAndGivenOnce(t *testing.T) {
	b := newBanner()
	for range 3 {
		if err := b.hear(strings.Repeat("x", bannerLimit/2+1)); err != nil {
			t.Fatal(err)
		}
	}
	if text := b.take(); len(text) != bannerLimit {
		t.Errorf("%d bytes were kept", len(text))
	}
	if again := b.take(); again != "" {
		t.Errorf("given twice: %q", again)
	}
	if lines := strings.Count(printableLines(strings.Repeat("x\n", 1000)), "\r\n"); lines != 50 {
		t.Errorf("%d lines on stderr", lines)
	}
}
