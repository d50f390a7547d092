package gateway

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestAuditWriterWritesLinesInOrder(t *testing.T) {
	var out bytes.Buffer
	a := NewAuditWriter(&out, nil)
	for _, what := range []string{EventConnectionOpened, EventConnectionClosed} {
		a.Record(Event{Schema: AuditSchema, Event: what})
	}
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	a.Record(Event{Event: "late"}) // lost, and no panic
	if err := a.Close(); err != nil {
		t.Error("second Close:", err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 {
		t.Fatalf("%d lines: %s", len(lines), out.String())
	}
	for i, want := range []string{EventConnectionOpened, EventConnectionClosed} {
		var e Event
		if err := json.Unmarshal([]byte(lines[i]), &e); err != nil || e.Event != want || e.Schema != AuditSchema {
			t.Errorf("line %d: %s (%v)", i, lines[i], err)
		}
	}
}

// stuckWriter takes nothing until it is let go.
type stuckWriter struct {
	go_ chan struct{}
	testkit.Buffer
}

func (s *stuckWriter) Write(p []byte) (int, error) {
	<-s.go_
	return s.Buffer.Write(p)
}

func TestAuditWriterThatIsStuckCostsEventsAndSaysSo(t *testing.T) {
	stuck := &stuckWriter{go_: make(chan struct{})}
	a := NewAuditWriter(stuck, nil)
	for range auditQueue + 100 { // the writer's buffer takes some before it sticks
		if a.lost.Load() > 0 {
			break
		}
		a.Record(Event{Event: "filler", Detail: strings.Repeat("x", 4096)})
	}
	if a.lost.Load() == 0 {
		t.Fatal("nothing was lost: the queue has no bound")
	}
	close(stuck.go_)
	if err := a.Close(); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(stuck.String(), `"event":"`+EventAuditLost+`","lost":1`) {
		t.Error("the loss is not in the audit")
	}
}

type brokenWriter struct{}

func (brokenWriter) Write([]byte) (int, error) { return 0, errors.New("disk full") }

func TestAuditWriterTellsOfAFailure(t *testing.T) {
	a := NewAuditWriter(brokenWriter{}, nil)
	a.Record(Event{Event: "x"})
	if err := a.Close(); err == nil || !strings.Contains(err.Error(), "disk full") {
		t.Errorf("Close: %v", err)
	}
}

func TestPrintable(t *testing.T) {
	for in, want := range map[string]string{
		"plain": "plain", "tab\tnew\nline": `tab\u0009new\u000aline`, "\x1b[31m": `\u001b[31m`, "é世": "é世", "\u202eabc": `\u202eabc`, "\x9b": `\x9b`, "\u0085": `\u0085`,
		"\x7f": `\u007f`, "\xff\xfe": `\xff\xfe`, "\uFFFD": "\uFFFD", strings.Repeat("a", 20): "aaaaaaaaaa…",
	} {
		limit := 10
		if len(want) > limit && !strings.HasSuffix(want, "…") {
			limit = 100
		}
		if got := printable(in, limit); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// TestAuditTellsTheWholeStory follows one command from accept to end.
func TestAuditTellsTheWholeStory(t *testing.T) {
	w := newWorld(t, worldOptions{})
	outer := w.mustConnect(t, as("laptop\x1b[2J", w.keys["alice"]))
	inner, err := w.jump(t, outer, worldInstance+":22", as("ec2-user", w.keys["alice-second"]))
	if err != nil {
		t.Fatal(err)
	}
	if _, _, status := run(t, inner, "exit 7"); status != 7 {
		t.Fatalf("status %d", status)
	}
	_ = inner.Close()
	_ = outer.Close()
	w.audit.waitFor(t, EventConnectionClosed)

	w.audit.mu.Lock()
	defer w.audit.mu.Unlock()
	first := map[string]Event{}
	for _, e := range w.audit.events {
		if e.Schema != AuditSchema || e.Time.IsZero() || e.Ref == "" || e.Source == "" {
			t.Errorf("%s lacks schema, time, ref or source: %+v", e.Event, e)
		}
		if _, seen := first[e.Event]; !seen {
			first[e.Event] = e
		}
	}
	login, allowed := first[EventConnectionAuthenticated], first[EventTargetAllowed]
	if login.Person != "alice" || login.Login != `laptop\u001b[2J` || login.Fingerprint != ssh.FingerprintSHA256(w.keys["alice"].PublicKey()) || login.ClientVersion == "" {
		t.Errorf("login: %+v", login)
	}
	if allowed.Via != login.Ref || allowed.Instance != worldAccount+"/eu-west-1/"+worldInstance || allowed.OSUser != "ec2-user" || allowed.Role != worldRole ||
		allowed.Mode != modeInspected || allowed.Policies == "" || allowed.Fingerprint != ssh.FingerprintSHA256(w.keys["alice-second"].PublicKey()) {
		t.Errorf("allowed: %+v", allowed)
	}
	closed := first[EventChannelClosed]
	if closed.Ref != allowed.Ref || closed.ChannelType != "session" || closed.ExitStatus == nil || *closed.ExitStatus != 7 {
		t.Errorf("closed: %+v", closed)
	}
	for _, event := range []string{EventConnectionOpened, EventUpstreamOpened, EventChannelOpened, EventChannelRequest, EventTargetLeft, EventConnectionClosed} {
		if _, ok := first[event]; !ok {
			t.Errorf("no %s", event)
		}
	}
	if request := first[EventChannelRequest]; request.Request != "exec" || request.Detail != "exit 7" {
		t.Errorf("request: %+v", request)
	}
}
