package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// scrape reads what a scraper reads: values by name and labels. The format is held to the letter.
func scrape(t *testing.T, m *Metrics) map[string]string {
	t.Helper()
	answer := httptest.NewRecorder()
	m.ServeHTTP(answer, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	if got := answer.Header().Get("Content-Type"); got != "text/plain; version=0.0.4; charset=utf-8" {
		t.Errorf("content type %q", got)
	}
	sample := regexp.MustCompile(`^([a-z_]+)((?:\{(?:[a-z]+="(?:[^"\\\n]|\\["\\n])*",?)+\})?) ([0-9.e+-]+)$`)
	values, family := map[string]string{}, ""
	for _, line := range strings.Split(strings.TrimSuffix(answer.Body.String(), "\n"), "\n") {
		if rest, help := strings.CutPrefix(line, "# HELP "); help {
			family, _, _ = strings.Cut(rest, " ")
			continue
		}
		if strings.HasPrefix(line, "# TYPE ") {
			if !regexp.MustCompile(`^# TYPE ` + family + ` (counter|gauge)$`).MatchString(line) {
				t.Errorf("below the help of %s: %q", family, line)
			}
			continue
		}
		match := sample.FindStringSubmatch(line)
		if match == nil || match[1] != family || values[match[1]+match[2]] != "" {
			t.Errorf("%q is no sample of %s, or comes twice", line, family)
			continue
		}
		if strings.HasSuffix(line, "_total") && !strings.Contains(answer.Body.String(), "# TYPE "+family+" counter") {
			t.Errorf("%s is no counter", family)
		}
		values[match[1]+match[2]] = match[3]
	}
	return values
}

// among leaves of values what is asked for.
func among(values map[string]string, names ...string) map[string]string {
	some := map[string]string{}
	for _, name := range names {
		if value, there := values[prefix+name]; there {
			some[name] = value
		}
	}
	return some
}

// lane is a data channel of which only the numbers matter.
type lane struct{ stats ssmproto.Stats }

func (l *lane) Stats() ssmproto.Stats { return l.stats }

func TestLanes(t *testing.T) {
	m := New("1.2.3")
	names := []string{
		"lanes_total", "lanes_active", "lanes_resuming", "ssm_unacked_bytes", "ssm_unacked_bytes_worst", `ssm_round_trip_seconds{lane="median"}`,
		`ssm_round_trip_seconds{lane="worst"}`, "ssm_retransmits_total", "ssm_resumes_total", `ssm_bytes_total{direction="in"}`, `ssm_messages_total{direction="out"}`,
	}
	none := map[string]string{
		"lanes_total": "0", "lanes_active": "0", "lanes_resuming": "0", "ssm_unacked_bytes": "0", "ssm_unacked_bytes_worst": "0", "ssm_retransmits_total": "0",
		"ssm_resumes_total": "0", `ssm_bytes_total{direction="in"}`: "0", `ssm_messages_total{direction="out"}`: "0",
	}
	if diff := cmp.Diff(none, among(scrape(t, m), names...)); diff != "" {
		t.Errorf("without lanes: %s", diff)
	}
	busy := &lane{ssmproto.Stats{
		State: ssmproto.Open, UnackedBytes: 5000, RoundTrip: 250 * time.Millisecond, Resends: 3, Resumes: 1, MessagesOut: 10, BytesIn: 100,
	}}
	lost := &lane{ssmproto.Stats{State: ssmproto.Resuming, UnackedBytes: 1000, RoundTrip: 20 * time.Millisecond, Resends: 1, MessagesOut: 5, BytesIn: 11}}
	idle := &lane{ssmproto.Stats{State: ssmproto.Open, RoundTrip: 10 * time.Millisecond}}
	for _, one := range []*lane{busy, lost, idle} {
		m.Track(one)
	}
	present := map[string]string{
		"lanes_total": "3", "lanes_active": "3", "lanes_resuming": "1", "ssm_unacked_bytes": "6000", "ssm_unacked_bytes_worst": "5000",
		`ssm_round_trip_seconds{lane="median"}`: "0.02", `ssm_round_trip_seconds{lane="worst"}`: "0.25", "ssm_retransmits_total": "4", "ssm_resumes_total": "1",
		`ssm_bytes_total{direction="in"}`: "111", `ssm_messages_total{direction="out"}`: "15",
	}
	if diff := cmp.Diff(present, among(scrape(t, m), names...)); diff != "" {
		t.Errorf("with lanes: %s", diff)
	}
	for _, one := range []*lane{busy, lost, idle} {
		one.stats.State = ssmproto.Closed
	}
	for _, name := range []string{"lanes_total", "ssm_retransmits_total", "ssm_resumes_total", `ssm_bytes_total{direction="in"}`, `ssm_messages_total{direction="out"}`} {
		none[name] = present[name]
	}
	for range 2 {
		if diff := cmp.Diff(none, among(scrape(t, m), names...)); diff != "" {
			t.Errorf("a counter went back with its lanes, or counted them twice: %s", diff)
		}
	}
}

// TestLanesWithoutScrapes: lanes that have ended are let go even if nobody ever asks.
func TestLanesWithoutScrapes(t *testing.T) {
	m := New("1.2.3")
	for range 1000 {
		m.Track(&lane{ssmproto.Stats{State: ssmproto.Closed, Resends: 1}})
		if held := len(m.lanes.open); held > leastSwept {
			t.Fatalf("%d lanes that have ended are held", held)
		}
	}
	if got := among(scrape(t, m), "lanes_total", "ssm_retransmits_total"); got["lanes_total"] != "1000" || got["ssm_retransmits_total"] != "1000" {
		t.Errorf("%v", got)
	}
}

type sink struct{ events []gateway.Event }

func (s *sink) Record(e gateway.Event) { s.events = append(s.events, e) }

func TestEvents(t *testing.T) {
	m, next := New("1.2.3"), &sink{}
	watch := m.Watch(next)
	events := []gateway.Event{
		{Event: gateway.EventConnectionOpened},
		{Event: gateway.EventConnectionOpened},
		{Event: gateway.EventConnectionRefused, Reason: "unknown_key"},
		{Event: gateway.EventConnectionAuthenticated, Person: "alice"},
		{Event: gateway.EventTargetRefused, Reason: "not_permitted"},
		{Event: gateway.EventActionRefused, Reason: "not_permitted"},
		{Event: gateway.EventUpstreamOpened},
		{Event: gateway.EventUpstreamFailed, Reason: "target_not_connected"},
		{Event: gateway.EventChannelOpened, ChannelType: "session"},
		{Event: gateway.EventChannelOpened, ChannelType: "made up by a client"},
		{Event: gateway.EventChannelOpened, ChannelType: "made up by another client"},
		{Event: gateway.EventChannelClosed, BytesIn: 10, BytesOut: 2000},
		{Event: gateway.EventChannelClosed, BytesIn: 1},
	}
	for _, e := range events {
		watch.Record(e)
	}
	m.Watch(nil).Record(gateway.Event{Event: gateway.EventConnectionOpened})
	if diff := cmp.Diff(events, next.events); diff != "" {
		t.Errorf("what was passed on: %s", diff)
	}
	want := map[string]string{
		"connections_total": "3", "logins_total": "1", `login_refusals_total{reason="unknown_key"}`: "1", `target_refusals_total{reason="not_permitted"}`: "1",
		`action_refusals_total{reason="not_permitted"}`: "1", "upstreams_total": "1", `upstream_failures_total{reason="target_not_connected"}`: "1",
		`channels_total{type="session"}`: "1", `channels_total{type="other"}`: "2", `channel_bytes_total{direction="in"}`: "11",
		`channel_bytes_total{direction="out"}`: "2000",
	}
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	if diff := cmp.Diff(want, among(scrape(t, m), names...)); diff != "" {
		t.Error(diff)
	}
}

func TestCallsAndLoad(t *testing.T) {
	m := New(`1.2.3 "quoted"`)
	m.Called(awscloud.Call{Action: "ssm:StartSession", Attempts: 3, Took: 1500 * time.Millisecond})
	m.Called(awscloud.Call{Action: "ssm:StartSession", Attempts: 1, Took: time.Second, Reason: "throttled"})
	m.Observe(func() gateway.Load {
		return gateway.Load{Startups: 1, Connections: 2, Stays: 3, Dropped: 4, Draining: true}
	})
	want := map[string]string{
		`aws_calls_total{action="ssm:StartSession",result="ok"}`: "1", `aws_calls_total{action="ssm:StartSession",result="throttled"}`: "1",
		`aws_attempts_total{action="ssm:StartSession"}`: "4", `aws_call_seconds_total{action="ssm:StartSession"}`: "2.5",
		"connections_unauthenticated": "1", "connections_active": "2", "machines_active": "3", "connections_dropped_total": "4", "draining": "1",
	}
	names := make([]string, 0, len(want))
	for name := range want {
		names = append(names, name)
	}
	values := scrape(t, m)
	if diff := cmp.Diff(want, among(values, names...)); diff != "" {
		t.Error(diff)
	}
	found := false
	for name := range values {
		found = found || strings.HasPrefix(name, prefix+`build_info{version="1.2.3 \"quoted\"",goversion="go`)
	}
	if !found || values["go_goroutines"] == "" || values["go_memstats_heap_alloc_bytes"] == "" {
		t.Errorf("of the program itself: %v", values)
	}
}

// TestFamilies: names and kinds follow the conventions that promtool checks, and docs/metrics.md has them all.
func TestFamilies(t *testing.T) {
	page, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	for name, f := range families {
		if !strings.Contains(string(page), "`"+name+"`") {
			t.Errorf("docs/metrics.md says nothing about %s", name)
		}
		if strings.HasSuffix(name, "_total") != (f.kind == counter) {
			t.Errorf("%s is a %s", name, f.kind)
		}
		if f.help == "" || !strings.HasSuffix(f.help, ".") {
			t.Errorf("%s: the help is %q", name, f.help)
		}
	}
	if got := fmt.Sprint(labels([]string{"a", "b"}, []string{"x\n", `\"`})); got != `{a="x\n",b="\\\""}` {
		t.Errorf("labels %s", got)
	}
}
