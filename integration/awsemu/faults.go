package awsemu

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Side is one of the two ends of a session.
type Side string

// The two sides.
const (
	SideClient Side = "client"
	SideAgent  Side = "agent"
)

// Duration is a time.Duration that reads and writes itself as text such as "5ms".
type Duration time.Duration

// MarshalText gives the form of time.Duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// UnmarshalText reads the form of time.ParseDuration.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := time.ParseDuration(string(b))
	*d = Duration(v)
	return err
}

// Faults is what goes wrong. The zero value is good behavior. Where faults are set for a session, they replace those of its machine,
// which replace the global ones, as a whole; those of API calls count globally only.
type Faults struct {
	// Seed makes the chances below repeat for the same traffic; 0 is a seed like any other.
	Seed     uint64 `json:"seed,omitempty"`
	ToAgent  Link   `json:"toAgent,omitzero"`
	ToClient Link   `json:"toClient,omitzero"`

	// RateLimit is how many messages per second one WebSocket may send for long: after two seconds above it the agent gets
	// pause_publication, after three the WebSocket is closed. None when zero; AWS has about 1000 (SPEC.md §4.6).
	RateLimit int `json:"rateLimit,omitempty"`
	// MaxClientPayload discards input_stream_data with more bytes of payload. None when zero.
	MaxClientPayload int `json:"maxClientPayload,omitempty"`
	// CloseOversized closes the WebSocket of a client that exceeds MaxClientPayload, beside discarding the message.
	CloseOversized bool `json:"closeOversized,omitempty"`
	// CutAfterMessages and CutAfterBytes break the WebSocket of CutSide (the client when empty) without close frame after it
	// has carried that much in both directions, each time it is connected. None when zero.
	CutAfterMessages int64 `json:"cutAfterMessages,omitempty"`
	CutAfterBytes    int64 `json:"cutAfterBytes,omitempty"`
	CutSide          Side  `json:"cutSide,omitempty"`
	// ByeEvery closes the client's WebSocket with 1000 "Bye" that long after it opened, as AWS does hourly. Never when zero.
	ByeEvery Duration `json:"byeEvery,omitempty"`
	// StartPublication begins each session with start_publication to both sides, as AWS sometimes does.
	StartPublication bool `json:"startPublication,omitempty"`
	// LongChannelClosed sends channel_closed with a header of 116 bytes instead of AWS's 112.
	LongChannelClosed bool `json:"longChannelClosed,omitempty"`

	// RefusePorts ends sessions to these ports at once, with an error text in channel_closed; the agent does not hear of them.
	RefusePorts []int `json:"refusePorts,omitempty"`
	// ExpireTokens makes every new token of data channels an expired one.
	ExpireTokens bool `json:"expireTokens,omitempty"`
	// FailResumes makes the next so many ResumeSession calls fail with InternalServerError.
	FailResumes int `json:"failResumes,omitempty"`
	// StartLatency is how long StartSession takes before it does anything.
	StartLatency Duration `json:"startLatency,omitempty"`
	// AnswerLatency is how long the answer of StartSession takes once the session is open.
	AnswerLatency Duration `json:"answerLatency,omitempty"`

	// Throttle makes the next so many calls of an action ("ssm:StartSession") fail with the service's throttling error.
	Throttle map[string]int `json:"throttle,omitempty"`
	// Rates throttle an action ("ssm:StartSession") in the same way whenever it is called faster.
	Rates map[string]Rate `json:"rates,omitempty"`
	// Deny refuses an action to everybody; the value ends the message, after "on resource: …".
	Deny map[string]string `json:"deny,omitempty"`
	// Latency is how long an action takes to answer.
	Latency map[string]Duration `json:"latency,omitempty"`
}

// Rate is a token bucket, as AWS has them: it holds Burst calls, and gets PerSecond back.
type Rate struct {
	PerSecond float64 `json:"perSecond"`
	Burst     int     `json:"burst"`
}

// Link is what goes wrong between the two WebSockets, in one direction. Probabilities are from 0 to 1 and hold for each message.
type Link struct {
	Delay     Duration `json:"delay,omitempty"` // one way; Config.Delay when zero, none when negative
	Drop      float64  `json:"drop,omitempty"`
	DropAcks  float64  `json:"dropAcks,omitempty"`  // for acknowledgements, beside Drop
	Duplicate float64  `json:"duplicate,omitempty"` // the copy follows at once
	Reorder   float64  `json:"reorder,omitempty"`   // the message changes places with the next one, however late that comes
	Grease    float64  `json:"grease,omitempty"`    // a message of an unknown type follows
	Stall     bool     `json:"stall,omitempty"`     // nothing gets through until it is cleared; queues fill
}

// chancy reports whether anything is left to chance.
func (l *Link) chancy() bool {
	return l.Drop > 0 || l.DropAcks > 0 || l.Duplicate > 0 || l.Reorder > 0 || l.Grease > 0
}

// Scope says what faults are for: one session, one machine, or everything when both are empty.
type Scope struct {
	Session  string `json:"session,omitempty"`
	Instance string `json:"instance,omitempty"`
}

// check refuses faults that would not do what they say.
func (f *Faults) check() error {
	for _, l := range []Link{f.ToAgent, f.ToClient} {
		for _, p := range []float64{l.Drop, l.DropAcks, l.Duplicate, l.Reorder, l.Grease} {
			if !(p >= 0 && p <= 1) {
				return fmt.Errorf("awsemu: probability %v is not between 0 and 1", p)
			}
		}
	}
	if f.CutSide != "" && f.CutSide != SideClient && f.CutSide != SideAgent {
		return fmt.Errorf("awsemu: side %q is neither client nor agent", f.CutSide)
	}
	for action, r := range f.Rates {
		if !(r.PerSecond > 0) || r.Burst < 1 {
			return fmt.Errorf("awsemu: %s at %v calls a second in bursts of %d never succeeds", action, r.PerSecond, r.Burst)
		}
	}
	return nil
}

// clone makes a copy that shares nothing with what the caller may change.
func (f Faults) clone() Faults {
	f.RefusePorts = slices.Clone(f.RefusePorts)
	f.Throttle, f.Rates, f.Deny, f.Latency = maps.Clone(f.Throttle), maps.Clone(f.Rates), maps.Clone(f.Deny), maps.Clone(f.Latency)
	return f
}

// faultBook knows which faults are in force. Entries are never changed, but replaced; the countdowns are beside them.
type faultBook struct {
	mu        sync.Mutex
	global    *Faults
	instances map[string]*Faults
	sessions  map[string]*Faults
	throttle  map[string]int // calls left to throttle, by action
	rates     map[string]*rate.Limiter
	resumes   map[*Faults]int // resumes left to fail
}

func (b *faultBook) init(f Faults) {
	b.instances, b.sessions, b.resumes = map[string]*Faults{}, map[string]*Faults{}, map[*Faults]int{}
	b.set(Scope{}, f)
}

func (b *faultBook) set(scope Scope, f Faults) {
	f = f.clone()
	b.mu.Lock()
	defer b.mu.Unlock()
	var old *Faults
	switch {
	case scope.Session != "":
		old, b.sessions[scope.Session] = b.sessions[scope.Session], &f
	case scope.Instance != "":
		old, b.instances[scope.Instance] = b.instances[scope.Instance], &f
	default:
		old, b.global = b.global, &f
		b.throttle, b.rates = maps.Clone(f.Throttle), map[string]*rate.Limiter{}
		for action, r := range f.Rates {
			b.rates[action] = rate.NewLimiter(rate.Limit(r.PerSecond), r.Burst)
		}
	}
	delete(b.resumes, old)
	b.resumes[&f] = f.FailResumes
}

func (b *faultBook) lookup(sessionID, instanceID string) *Faults {
	b.mu.Lock()
	defer b.mu.Unlock()
	if f := b.sessions[sessionID]; f != nil {
		return f
	}
	if f := b.instances[instanceID]; f != nil {
		return f
	}
	return b.global
}

// forget drops the faults of a session that has ended.
func (b *faultBook) forget(sessionID string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.resumes, b.sessions[sessionID])
	delete(b.sessions, sessionID)
}

// failResume counts down FailResumes.
func (b *faultBook) failResume(f *Faults) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.resumes[f] <= 0 {
		return false
	}
	b.resumes[f]--
	return true
}

func (b *faultBook) deniedAction(action string) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	message, ok := b.global.Deny[action]
	return message, ok
}

// spoilCall applies the faults of API calls.
func (b *faultBook) spoilCall(c *call) error {
	action := c.iamAction()
	b.mu.Lock()
	latency := b.global.Latency[action]
	throttled := b.throttle[action] > 0
	if throttled {
		b.throttle[action]--
	}
	if limiter := b.rates[action]; limiter != nil && !limiter.Allow() {
		throttled = true
	}
	b.mu.Unlock()
	c.wait(time.Duration(latency))
	if throttled {
		return badRequest(codeThrottling, "Rate exceeded")
	}
	return nil
}

// SetFaults replaces the faults of a scope, for what happens from now on.
func (s *Server) SetFaults(scope Scope, f Faults) error {
	if err := f.check(); err != nil {
		return err
	}
	s.faults.set(scope, f)
	for _, ses := range s.openSessions() {
		ses.useFaults(s.faults.lookup(ses.id, ses.target.id))
	}
	return nil
}
