package ssmproto

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"
)

// sessionKind is what a schedule runs.
type sessionKind int

const (
	basicPort sessionKind = iota
	muxedPort
	shellSession
	commandSession
	sessionKinds // how many there are
)

// ending is who ends a session whose data has arrived.
type ending int

const (
	closedByClient ending = iota
	closedAtOnce          // by the client, right behind its last write
	closedByAgent
	endings
)

// mishap is what happens at a moment of a schedule; linkPlan is what happens to single messages all the time.
type mishap int

const (
	cutConnection  mishap = iota
	saidBye               // the hourly close
	paused                // pause_publication, and start_publication after a time
	pausedForGood         // no start_publication follows
	agentAway             // the agent's connection is down: what is under way is lost
	deadConnection        // nothing comes through, and nobody says so
	resumesFail           // the calls that follow, and the connection is cut
	tokensExpired         // the tokens that follow are worth nothing, and the connection is cut
	agentRestarted        // the agent has lost its sessions
	endedMeanwhile        // the connection is cut, and the session is over when it is to be resumed
	abandoned             // the client calls CloseNow
	mishaps
)

var mishapNames = [...]string{
	"cut", "bye", "pause", "pause without end", "agent away", "dead connection", "resumes fail", "tokens expired", "agent restarted", "ended meanwhile", "abandoned",
}

// fatal says that the session need not survive it; it may, if it was already done.
func (m mishap) fatal() bool { return m >= agentRestarted }

type chaosEvent struct {
	at    time.Duration // after the opening
	what  mishap
	lasts time.Duration
	times int
}

func (e chaosEvent) String() string {
	return fmt.Sprintf("%v %s (%v, %d)", e.at, mishapNames[e.what], e.lasts, e.times)
}

// linkPlan is one direction of the service. Chances are out of 1000.
type linkPlan struct {
	drop, dropAcks, double, reorder int
	delay, jitter                   time.Duration
}

// chaosPlan is one schedule: everything in it follows from its seed.
type chaosPlan struct {
	seed              uint64
	kind              sessionKind
	end               ending
	toAgent, toClient linkPlan
	events            []chaosEvent
	up, down          int           // bytes of each stream
	streams           int           // of a multiplexed session
	piece             int           // bytes per write
	pause             time.Duration // between writes
	slowReader        time.Duration // between reads of the client
	slowAgent         time.Duration // per message at the agent's destination
	readyAfter        time.Duration // the agent takes no data before
	payload, rate     int
	window, readAhead int
	resumeFor         time.Duration
	peerCheck         time.Duration
}

// newChaosPlan draws a schedule.
func newChaosPlan(seed uint64) chaosPlan {
	r := rand.New(rand.NewPCG(seed, 0))
	p := chaosPlan{
		seed: seed, kind: sessionKind(r.IntN(int(sessionKinds))), end: ending(r.IntN(int(endings))),
		toAgent: newLinkPlan(r), toClient: newLinkPlan(r),
		streams: 1 + r.IntN(4), piece: 1 + r.IntN(oneOf(r, 10, 3000, 20_000)), pause: oneOf(r, 0, 0, time.Millisecond, 100*time.Millisecond, time.Second),
		slowReader: oneOf(r, 0, 0, 0, 20*time.Millisecond), slowAgent: oneOf(r, 0, 0, 0, 5*time.Millisecond),
		readyAfter: oneOf(r, 0, 0, 50*time.Millisecond, 2*time.Second),
		payload:    oneOf(r, 0, 1, 100, 1025, 9000), rate: oneOf(r, -1, 0, 200),
		window: oneOf(r, 0, 0, 4000), readAhead: oneOf(r, 0, 0, 8000), resumeFor: chaosLimit,
		peerCheck: oneOf(r, 0, 0, time.Second),
	}
	if r.IntN(20) == 0 {
		p.resumeFor = 10 * time.Second
	}
	limit := min(40_000, 60*p.piece)
	if p.payload > 0 {
		limit = min(limit, 300*p.payload)
	}
	p.up, p.down = 1+r.IntN(limit), 1+r.IntN(limit)
	horizon := oneOf(r, 300*time.Millisecond, 3*time.Second, 40*time.Second)
	for range r.IntN(7) {
		what := mishap(r.IntN(int(agentRestarted)))
		if r.IntN(30) == 0 {
			what = mishap(r.IntN(int(mishaps)))
		}
		p.events = append(p.events, chaosEvent{
			at: time.Duration(r.Int64N(int64(horizon))), what: what, lasts: time.Duration(r.Int64N(int64(oneOf(r, 100*time.Millisecond, 5*time.Second, 2*time.Minute)))), times: 1 + r.IntN(5),
		})
	}
	slices.SortFunc(p.events, func(a, b chaosEvent) int { return int(a.at - b.at) })
	return p
}

func newLinkPlan(r *rand.Rand) linkPlan {
	worst := oneOf(r, 0, 20, 150)
	chance := func() int { return r.IntN(worst + 1) }
	return linkPlan{
		drop: chance(), dropAcks: chance(), double: chance(), reorder: chance(),
		delay: oneOf(r, 0, 0, 2*time.Millisecond, 40*time.Millisecond, 400*time.Millisecond), jitter: oneOf(r, 0, 0, time.Millisecond, 100*time.Millisecond),
	}
}

func oneOf[T any](r *rand.Rand, these ...T) T { return these[r.IntN(len(these))] }

// mortal says that something may happen which a session need not survive.
func (p *chaosPlan) mortal() bool {
	return p.resumeFor < chaosLimit || slices.ContainsFunc(p.events, func(e chaosEvent) bool { return e.what.fatal() })
}

// String tells the story of a schedule, for the report of its failure.
func (p *chaosPlan) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "kind %d, end %d, to the agent %+v, to the client %+v, %d bytes up, %d down, %d streams, pieces of %d every %v, "+
		"slow reader %v, slow agent %v, ready after %v, payload %d, rate %d, window %d, read ahead %d, resume for %v, peer check %v", p.kind, p.end, p.toAgent, p.toClient, p.up, p.down,
		p.streams, p.piece, p.pause, p.slowReader, p.slowAgent, p.readyAfter, p.payload, p.rate, p.window, p.readAhead, p.resumeFor, p.peerCheck)
	for _, e := range p.events {
		fmt.Fprintf(&b, "\n  %v", e)
	}
	return b.String()
}
