package gateway

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode"
	"unicode/utf8"
)

// AuditSchema names the form of Event. It changes when a field changes its meaning or goes; new fields may come without.
const AuditSchema = "ssm-ssh-gateway.audit/v1"

// What an Event can be about.
const (
	EventConnectionOpened        = "connection.opened"
	EventConnectionAuthenticated = "connection.authenticated"
	EventConnectionRefused       = "connection.refused" // no login; Reason says why
	EventConnectionClosed        = "connection.closed"
	EventTargetAllowed           = "target.allowed"
	EventTargetRefused           = "target.refused"
	EventTargetLeft              = "target.left"
	EventUpstreamOpened          = "upstream.opened"
	EventUpstreamReused          = "upstream.reused" // a session that an earlier connection of the same person left
	EventUpstreamFailed          = "upstream.failed"
	EventChannelOpened           = "channel.opened"
	EventChannelRequest          = "channel.request"
	EventChannelClosed           = "channel.closed"
	EventGlobalRequest           = "global.request"
	EventActionRefused           = "action.refused" // something on a machine that policy does not allow
	EventAuditLost               = "audit.lost"     // the sink could not keep up; Lost says how many events are missing
)

// Event is one line of the audit. Fields without a value are left out. Text that a peer supplied is cut to a bounded length and has no control or
// direction characters.
type Event struct {
	Schema string    `json:"schema"`
	Time   time.Time `json:"time"`
	Event  string    `json:"event"`
	Ref    string    `json:"ref,omitempty"` // of the connection or stay: the reference id that the person was shown, and that the log has
	Via    string    `json:"via,omitempty"` // of the connection that a stay belongs to

	Source        string `json:"source,omitempty"` // address:port of the client
	ClientVersion string `json:"client_version,omitempty"`
	Login         string `json:"login,omitempty"` // the login name, as sent
	Person        string `json:"person,omitempty"`
	Method        string `json:"method,omitempty"`
	Fingerprint   string `json:"fingerprint,omitempty"`
	KeyType       string `json:"key_type,omitempty"`
	CertKeyID     string `json:"cert_key_id,omitempty"`
	CertSerial    uint64 `json:"cert_serial,omitempty"`
	CertCA        string `json:"cert_ca,omitempty"`
	IssuedSerial  uint64 `json:"issued_serial,omitempty"` // of the certificate that the gateway made for the login to the machine

	Target   string `json:"target,omitempty"`   // as typed
	Instance string `json:"instance,omitempty"` // account/region/id
	Port     int    `json:"port,omitempty"`
	OSUser   string `json:"os_user,omitempty"`
	Role     string `json:"role,omitempty"` // ARN
	Mode     string `json:"mode,omitempty"` // inspected, passthrough, port, session-manager-shell

	SessionID   string `json:"session_id,omitempty"`    // of Session Manager
	HostKey     string `json:"host_key,omitempty"`      // fingerprint of the machine's key
	HostKeyHow  string `json:"host_key_how,omitempty"`  // why it is believed
	LoginWay    string `json:"login_way,omitempty"`     // instance-connect, certificate or agent: how the gateway logged in to the machine
	LoginKey    string `json:"login_key,omitempty"`     // fingerprint of the key it did so with; of a certificate, as sshd logs it
	PushedKey   string `json:"pushed_key,omitempty"`    // the same, where it was pushed by EC2 Instance Connect
	Channel     string `json:"channel,omitempty"`       // id within the connection
	ChannelType string `json:"channel_type,omitempty"`  // session, direct-tcpip, …
	Direction   string `json:"direction,omitempty"`     // who opened it
	Destination string `json:"destination,omitempty"`   // of a forward
	Request     string `json:"request,omitempty"`       // shell, exec, subsystem, pty-req, tcpip-forward, …
	Detail      string `json:"detail,omitempty"`        // the command, the subsystem, …
	Allowed     *bool  `json:"allowed,omitempty"`       // of global requests
	BytesIn     int64  `json:"bytes_in,omitempty"`      // from the client to the machine
	BytesOut    int64  `json:"bytes_out,omitempty"`     // from the machine to the client
	ExitStatus  *int   `json:"exit_status,omitempty"`   // of the program
	ExitSignal  string `json:"exit_signal,omitempty"`   // that killed it, without SIG
	Duration    int64  `json:"duration_ms,omitempty"`   // of what was closed
	Reason      string `json:"reason,omitempty"`        // an authz.Reason
	Cause       string `json:"cause,omitempty"`         // the whole error, for people who run the gateway
	Policies    string `json:"policies,omitempty"`      // ids of those that decided, by comma
	Lost        int64  `json:"lost,omitempty"`          // for audit.lost
	Inspected   *bool  `json:"inspected,omitempty"`     // false: bytes only, the gateway saw nothing of what was done
	NotSeen     string `json:"not_inspected,omitempty"` // in words, where Inspected is false
}

// AuditSink receives events. Record is called from the goroutines that carry sessions: it may wait a moment, never long, and is safe for concurrent use.
type AuditSink interface {
	Record(e Event)
}

type discardAudit struct{}

func (discardAudit) Record(Event) {}

// Bounds of the audit writer and of single texts in it.
const (
	auditQueue     = 4096                   // events waiting to be written
	auditPatience  = 100 * time.Millisecond // how long a session waits for room before the event is lost
	auditTextLimit = 1024                   // bytes of one text that a peer supplied
)

// AuditWriter writes events as JSON lines. A slow writer delays a session by at most auditPatience per event; what finds no room then is counted, logged, and
// written as an audit.lost event as soon as there is room again.
type AuditWriter struct {
	queue chan Event
	done  chan struct{}
	lost  atomic.Int64
	log   *slog.Logger

	mu     sync.RWMutex // Record reads, Close writes: no Record may send on the closed queue
	closed bool
	err    error // of the writer goroutine; read after done
}

// NewAuditWriter starts writing to w. Close flushes; it does not close w. log may be nil.
func NewAuditWriter(w io.Writer, log *slog.Logger) *AuditWriter {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	a := &AuditWriter{queue: make(chan Event, auditQueue), done: make(chan struct{}), log: log}
	go a.run(w)
	return a
}

// Record queues e.
func (a *AuditWriter) Record(e Event) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	if a.closed {
		a.lose()
		return
	}
	select {
	case a.queue <- e:
		return
	default:
	}
	patience := time.NewTimer(auditPatience)
	defer patience.Stop()
	select {
	case a.queue <- e:
	case <-patience.C:
		a.lose()
	}
}

func (a *AuditWriter) lose() {
	if a.lost.Add(1) == 1 {
		a.log.Error("audit events are being lost: the sink does not keep up")
	}
}

// Close writes what is queued, waits for it, and gives the first error of writing.
func (a *AuditWriter) Close() error {
	a.mu.Lock()
	if !a.closed {
		a.closed = true
		close(a.queue)
	}
	a.mu.Unlock()
	<-a.done
	return a.err
}

// run owns the writer. Lines are flushed as soon as nothing more waits.
func (a *AuditWriter) run(w io.Writer) {
	defer close(a.done)
	buffered := bufio.NewWriter(w)
	for e := range a.queue {
		if lost := a.lost.Swap(0); lost > 0 {
			a.write(buffered, Event{Schema: AuditSchema, Time: time.Now().UTC(), Event: EventAuditLost, Lost: lost})
		}
		a.write(buffered, e)
		if len(a.queue) == 0 {
			a.keep(buffered.Flush())
		}
	}
	a.keep(buffered.Flush())
}

func (a *AuditWriter) write(w *bufio.Writer, e Event) {
	line, err := json.Marshal(e)
	if err == nil {
		_, err = w.Write(append(line, '\n'))
	}
	a.keep(err)
}

// keep remembers the first failure and says it once.
func (a *AuditWriter) keep(err error) {
	if err != nil && a.err == nil {
		a.err = fmt.Errorf("audit: %w", err)
		a.log.Error("audit is not being written", "error", err)
	}
}

// record stamps an event and makes its texts safe to show.
func (s *Server) record(e Event) {
	e.Schema, e.Time = AuditSchema, time.Now().UTC()
	for _, text := range []*string{&e.ClientVersion, &e.Login, &e.CertKeyID, &e.Target, &e.OSUser, &e.Destination, &e.Request, &e.Detail, &e.ExitSignal, &e.Cause, &e.ChannelType} {
		*text = printable(*text, auditTextLimit)
	}
	s.cfg.Audit.Record(e)
}

// printable makes text from a peer safe for terminals and logs: control, format and direction characters and broken UTF-8 are shown as escapes, and what
// is longer than limit bytes is cut.
func printable(s string, limit int) string {
	if len(s) <= limit && isPlain(s) {
		return s
	}
	var b strings.Builder
	for i, r := range s {
		switch {
		case b.Len() >= limit:
			b.WriteString("…")
			return b.String()
		case r == utf8.RuneError && !strings.HasPrefix(s[i:], "\uFFFD"):
			fmt.Fprintf(&b, `\x%02x`, s[i])
		case unicode.IsPrint(r):
			b.WriteRune(r)
		default:
			fmt.Fprintf(&b, `\u%04x`, r)
		}
	}
	return b.String()
}

func isPlain(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return true
}
