// Package metrics counts what a gateway does and writes it in the text that Prometheus scrapes.
//
// No label names a person, a machine or an address: who did what is the audit's matter, and a label with unbounded values would grow without end. It is
// written by hand because client_golang brings expvar, which registers itself on the default mux, and more code than all of this package replaces.
package metrics

import (
	"sync"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
)

// Metrics counts. Make it with New; it is safe for concurrent use.
type Metrics struct {
	version string
	lanes   lanes

	mu     sync.Mutex
	counts map[string]map[string]float64 // of the counters in families: by name, then by labels
	load   func() gateway.Load           // nil while there is no server
}

// New makes counters that stand at zero. version is that of the program.
func New(version string) *Metrics {
	return &Metrics{version: version, counts: map[string]map[string]float64{}}
}

// Observe names the server whose present load is told.
func (m *Metrics) Observe(load func() gateway.Load) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.load = load
}

// count adds to a counter. Values are those of the family's labels, in order.
func (m *Metrics) count(name string, n float64, values ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.counts[name] == nil {
		m.counts[name] = map[string]float64{}
	}
	m.counts[name][labels(families[name].labels, values)] += n
}

// Called counts a finished call to AWS. It has the shape of awscloud.Config.OnCall.
func (m *Metrics) Called(call awscloud.Call) {
	result := string(call.Reason)
	if result == "" {
		result = "ok"
	}
	m.count("aws_calls_total", 1, call.Action, result)
	m.count("aws_attempts_total", float64(call.Attempts), call.Action)
	m.count("aws_call_seconds_total", call.Took.Seconds(), call.Action)
}

// Watch gives a sink that counts what happens and passes it on.
func (m *Metrics) Watch(next gateway.AuditSink) gateway.AuditSink { return &watcher{m, next} }

type watcher struct {
	metrics *Metrics
	next    gateway.AuditSink // nil: nowhere
}

// Record implements gateway.AuditSink.
func (w *watcher) Record(e gateway.Event) {
	w.metrics.happened(&e)
	if w.next != nil {
		w.next.Record(e)
	}
}

func (m *Metrics) happened(e *gateway.Event) {
	switch e.Event {
	case gateway.EventConnectionOpened:
		m.count("connections_total", 1)
	case gateway.EventConnectionAuthenticated:
		m.count("logins_total", 1)
	case gateway.EventConnectionRefused:
		m.count("login_refusals_total", 1, e.Reason)
	case gateway.EventTargetRefused:
		m.count("target_refusals_total", 1, e.Reason)
	case gateway.EventActionRefused:
		m.count("action_refusals_total", 1, e.Reason)
	case gateway.EventUpstreamOpened:
		m.count("upstreams_total", 1)
	case gateway.EventUpstreamFailed:
		m.count("upstream_failures_total", 1, e.Reason)
	case gateway.EventChannelOpened:
		m.count("channels_total", 1, channelType(e.ChannelType))
	case gateway.EventChannelClosed:
		m.count("channel_bytes_total", float64(e.BytesIn), "in")
		m.count("channel_bytes_total", float64(e.BytesOut), "out")
	}
}

// channelType keeps the types of RFC 4254 and OpenSSH; a client may name any other.
func channelType(name string) string {
	switch name {
	case "session", "direct-tcpip", "forwarded-tcpip", "x11", "direct-streamlocal@openssh.com", "forwarded-streamlocal@openssh.com", "auth-agent@openssh.com":
		return name
	}
	return "other"
}
