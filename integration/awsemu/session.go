package awsemu

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Status of a session, as DescribeSessions names it.
type Status string

// A session is Connecting until both sides have been there, then Connected or Disconnected as the client comes and goes, at last Terminated or Failed.
const (
	StatusConnecting   Status = "Connecting"
	StatusConnected    Status = "Connected"
	StatusDisconnected Status = "Disconnected"
	StatusTerminated   Status = "Terminated"
	StatusFailed       Status = "Failed"
)

const maxHistory = 1000 // ended sessions that DescribeSessions still knows

// session is one Session Manager session: two lanes between two WebSockets that come and go.
//
//	Connecting ──► Connected ◄──► Disconnected
//	     └─────────────┴───────────────┴──────► Terminated, Failed
type session struct {
	server   *Server
	id       string
	target   target
	document *Document
	owner    *principal
	reason   string
	values   map[string]string
	start    time.Time
	log      *slog.Logger

	toAgent  *lane
	toClient *lane
	done     chan struct{} // closed by abandon
	faults   atomic.Pointer[Faults]
	active   atomic.Int64 // Unix nanoseconds of the last stream message

	mu       sync.Mutex
	status   Status
	client   *channel
	agent    *channel
	everBoth bool
	invited  bool   // the agent has been told of the session
	output   string // of channel_closed
	end      time.Time
	timers   []*time.Timer
	dropped  bool // done is closed
}

// newSession makes a session and starts its lanes.
func (s *Server) newSession(c *call, t target, d *Document, values map[string]string, reason string) *session {
	ses := &session{
		server: s, id: c.who.name + "-" + randomHex(17), target: t, document: d, owner: c.who, reason: reason, values: values,
		start: s.now(), log: s.log, done: make(chan struct{}), status: StatusConnecting,
		toAgent:  newLane(s.cfg.Delay, func(f *Faults) *Link { return &f.ToAgent }),
		toClient: newLane(s.cfg.Delay, func(f *Faults) *Link { return &f.ToClient }),
	}
	ses.useFaults(s.faults.lookup(ses.id, t.id))
	ses.touch()
	for _, l := range []*lane{ses.toAgent, ses.toClient} {
		s.wg.Go(func() { l.run(ses.done) })
	}
	ses.setTimers()
	return ses
}

func (ses *session) useFaults(f *Faults) {
	ses.faults.Store(f)
	ses.toAgent.use(f)
	ses.toClient.use(f)
}

func (ses *session) touch() { ses.active.Store(time.Now().UnixNano()) }

// setTimers arms what ends a session by itself: an agent that does not come, silence, and age.
func (ses *session) setTimers() {
	idle, longest := ses.document.timers()
	ses.mu.Lock()
	defer ses.mu.Unlock()
	var idleTimer *time.Timer
	idleTimer = time.AfterFunc(idle, func() {
		silent := time.Since(time.Unix(0, ses.active.Load()))
		if silent < idle {
			ses.mu.Lock()
			defer ses.mu.Unlock()
			if !ses.over() {
				idleTimer.Reset(idle - silent)
			}
			return
		}
		ses.finish(StatusTerminated, "", false)
	})
	ses.timers = append(ses.timers, idleTimer)
	if longest > 0 {
		ses.timers = append(ses.timers, time.AfterFunc(longest, func() { ses.finish(StatusTerminated, "", false) }))
	}
	ses.timers = append(ses.timers, time.AfterFunc(ses.server.cfg.AgentWait, func() {
		ses.mu.Lock()
		late := ses.status == StatusConnecting && ses.agent == nil && !ses.everBoth
		ses.mu.Unlock()
		if late {
			ses.finish(StatusFailed, "the agent did not open its data channel in time", false)
		}
	}))
}

// over must be called with mu held.
func (ses *session) over() bool { return ses.status.over() }

func (s Status) over() bool { return s == StatusTerminated || s == StatusFailed }

// lanes gives the lane that a side sends into, and the one it receives from.
func (ses *session) lanes(side Side) (out, in *lane) {
	if side == SideClient {
		return ses.toAgent, ses.toClient
	}
	return ses.toClient, ses.toAgent
}

// attach makes c the WebSocket of its side, in place of an older one. It is false when the session is over.
func (ses *session) attach(c *channel) bool {
	faults := ses.faults.Load()
	ses.mu.Lock()
	if ses.over() {
		ses.mu.Unlock()
		return false
	}
	slot := &ses.client
	if c.side == SideAgent {
		slot = &ses.agent
	}
	old := *slot
	*slot = c
	first := ses.client != nil && ses.agent != nil && !ses.everBoth
	if ses.client != nil && ses.agent != nil {
		ses.status, ses.everBoth = StatusConnected, true
	}
	if every := time.Duration(faults.ByeEvery); every > 0 && c.side == SideClient {
		c.bye = time.AfterFunc(every, func() { c.close(websocket.CloseNormalClosure, "Bye") })
	}
	if first && faults.StartPublication {
		ses.toAgent.inject(serviceFrame(ssmproto.StartPublication, []byte("0")))
		ses.toClient.inject(serviceFrame(ssmproto.StartPublication, []byte("0")))
	}
	_, in := ses.lanes(c.side)
	in.connect(c) // with mu held: a session that ends now tells c, too
	ses.mu.Unlock()
	if old != nil {
		old.close(websocket.CloseNormalClosure, "replaced by a newer connection")
	}
	ses.server.announce()
	return true
}

// detach forgets c when its reader has ended.
func (ses *session) detach(c *channel) {
	_, in := ses.lanes(c.side)
	in.disconnect(c)
	ses.mu.Lock()
	if c.bye != nil {
		c.bye.Stop()
	}
	switch {
	case c.side == SideClient && ses.client == c:
		ses.client = nil
		if ses.status == StatusConnected {
			ses.status = StatusDisconnected
		}
	case c.side == SideAgent && ses.agent == c:
		ses.agent = nil
	}
	ses.mu.Unlock()
	ses.server.announce()
}

// relay reads what c sends until its WebSocket ends.
func (ses *session) relay(c *channel) error {
	out, _ := ses.lanes(c.side)
	stream := ssmproto.InputStreamData
	if c.side == SideAgent {
		stream = ssmproto.OutputStreamData
	}
	for {
		frame, err := c.read()
		if err != nil {
			return err
		}
		faults := ses.faults.Load()
		if faults.RateLimit > 0 && ses.tooFast(c, faults.RateLimit) {
			return fmt.Errorf("more than %d messages a second", faults.RateLimit)
		}
		switch kind := frameType(frame); kind {
		case stream:
			ses.touch()
			if c.side == SideClient && faults.MaxClientPayload > 0 && len(frame)-frameOverhead > faults.MaxClientPayload {
				out.stats.lost.Add(1)
				if faults.CloseOversized {
					return fmt.Errorf("a payload of more than %d bytes", faults.MaxClientPayload)
				}
				continue
			}
			out.push(frame, kind, ses.done)
		case ssmproto.Acknowledge:
			out.push(frame, kind, ses.done)
		default: // agent_session_state is for us, and of the rest the service says nothing either
			ses.log.Debug("message not relayed", "session", ses.id, "from", c.side, "type", kind)
		}
		if c.carried(len(frame), faults) {
			c.abort()
		}
	}
}

// tooFast is the rate limit: two seconds above it pause the agent, three end the WebSocket.
func (ses *session) tooFast(c *channel, limit int) bool {
	before := c.meter.over
	over := c.meter.add(time.Now(), limit)
	if over == 2 && before < 2 {
		ses.toAgent.inject(serviceFrame(ssmproto.PausePublication, []byte("0")))
	}
	return over >= 3
}

// finish ends the session: channel_closed to both, with output for the client. drain lets what is on its way to the client arrive first,
// which is how it is when the agent ended the session; TerminateSession cuts the tail off. It is false when the session was over.
func (ses *session) finish(status Status, output string, drain bool) bool {
	ses.mu.Lock()
	if ses.over() {
		ses.mu.Unlock()
		return false
	}
	ses.status, ses.output, ses.end = status, output, ses.server.now()
	agent, invited := ses.agent, ses.invited
	for _, t := range ses.timers {
		t.Stop()
	}
	ses.mu.Unlock()
	long := ses.faults.Load().LongChannelClosed
	ses.toClient.finish(closedFrame(ses.id, ses.target.id, output, long), drain)
	ses.toAgent.finish(closedFrame(ses.id, ses.target.id, "", long), false)
	if agent == nil && invited {
		ses.server.tellAgent(ses.target.id, closedFrame(ses.id, ses.target.id, "", long))
	}
	ses.server.retire(ses)
	return true
}

// abandon drops everything at once, when the emulator closes. It also closes the WebSockets.
func (ses *session) abandon() {
	ses.mu.Lock()
	defer ses.mu.Unlock()
	for _, t := range ses.timers {
		t.Stop()
	}
	if !ses.over() {
		ses.status, ses.end = StatusTerminated, ses.server.now()
	}
	if !ses.dropped {
		ses.dropped = true
		close(ses.done)
	}
}

// retire moves an ended session to the history and drops the oldest one there.
func (s *Server) retire(ses *session) {
	s.faults.forget(ses.id)
	s.mu.Lock()
	s.history = append(s.history, ses.id)
	if len(s.history) > maxHistory {
		delete(s.sessions, s.history[0])
		s.history = slices.Delete(s.history, 0, 1)
	}
	s.mu.Unlock()
	s.announce()
}

// announce wakes those who wait for agents and sessions.
func (s *Server) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// await waits until condition holds. It is asked again whenever an agent or a session changes.
func (s *Server) await(ctx context.Context, condition func() bool) error {
	for {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if condition() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (s *Server) openSessions() []*session {
	s.mu.Lock()
	defer s.mu.Unlock()
	var open []*session
	for _, ses := range s.sessions {
		open = append(open, ses)
	}
	return slices.DeleteFunc(open, func(ses *session) bool {
		ses.mu.Lock()
		defer ses.mu.Unlock()
		return ses.over()
	})
}

// sortSessions puts the oldest first.
func sortSessions(all []*session) {
	slices.SortFunc(all, func(a, b *session) int { return cmp.Or(a.start.Compare(b.start), strings.Compare(a.id, b.id)) })
}
