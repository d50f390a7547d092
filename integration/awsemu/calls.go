package awsemu

import (
	"maps"
	"slices"
	"sync"
	"time"
)

// maxCalls bounds the call log; the oldest go first.
const maxCalls = 100_000

// Call is one API call in the log, with what CloudTrail would say about who made it. Calls that failed authentication have no Principal.
type Call struct {
	Time           time.Time         `json:"time"`
	Service        string            `json:"service"`
	Action         string            `json:"action"`
	Principal      string            `json:"principal,omitempty"`
	Role           string            `json:"role,omitempty"` // ARN, for role sessions
	SessionName    string            `json:"sessionName,omitempty"`
	SourceIdentity string            `json:"sourceIdentity,omitempty"`
	Tags           map[string]string `json:"tags,omitempty"` // session tags of the caller
	Region         string            `json:"region,omitempty"`
	Params         map[string]string `json:"params,omitempty"` // selected; never a secret
	Error          string            `json:"error,omitempty"`  // code on the wire; empty when the call succeeded
	RequestID      string            `json:"requestId"`
}

// callLog keeps the newest calls.
type callLog struct {
	mu    sync.Mutex
	calls []Call
}

func (l *callLog) add(at time.Time, c *call, code string) {
	entry := Call{
		Time: at, Service: c.service, Action: c.action, Region: c.region, Params: maps.Clone(c.params), Error: code, RequestID: c.id,
	}
	if c.who != nil {
		entry.Principal, entry.Role, entry.SourceIdentity, entry.Tags = c.who.arn, c.who.roleARN, c.who.sourceIdentity, maps.Clone(c.who.tags)
		if c.who.isSession() {
			entry.SessionName = c.who.name
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.calls) >= maxCalls {
		l.calls = slices.Delete(l.calls, 0, maxCalls/10)
	}
	l.calls = append(l.calls, entry)
}

// Calls gives the API calls so far, oldest first; of very many the newest.
func (s *Server) Calls() []Call {
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	return slices.Clone(s.calls.calls)
}

// ForgetCalls empties the call log.
func (s *Server) ForgetCalls() {
	s.calls.mu.Lock()
	defer s.calls.mu.Unlock()
	s.calls.calls = nil
}
