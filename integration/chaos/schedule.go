package main

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
)

// kind is what a schedule runs.
type kind string

const (
	basicPort kind = "basic port"
	muxedPort kind = "multiplexed port"
	shell     kind = "shell"
	command   kind = "command"
)

// mishap is what happens at a moment of a schedule.
type mishap string

const (
	cutClient    mishap = "the client's connection is cut"
	cutAgent     mishap = "the agent's connection is cut"
	bye          mishap = "bye"
	stall        mishap = "nothing gets through"
	expire       mishap = "tokens expire"
	pauseClient  mishap = "the client's reader pauses"
	restartAgent mishap = "the agent is restarted"
	endSession   mishap = "the service ends the session"
)

type event struct {
	at, lasts time.Duration
	what      mishap
}

// schedule follows from its seed.
type schedule struct {
	seed        uint64
	kind        kind
	byAgent     bool // the destination closes, not the client
	up, down    int  // bytes of each stream
	streams     int
	slowReader  time.Duration // the client, per read
	faults      awsemu.Faults
	quirks      agent.Quirks
	events      []event
	payload     int
	peerTimeout time.Duration
}

// newSchedule draws one.
func newSchedule(seed uint64) schedule {
	r := rand.New(rand.NewPCG(seed, 0)) //nolint:gosec // has to repeat
	s := schedule{
		seed: seed, kind: oneOf(r, basicPort, muxedPort, muxedPort, shell, command), byAgent: r.IntN(2) == 0,
		up: 1 + r.IntN(oneOf(r, 100, 20_000, 80_000)), down: 1 + r.IntN(oneOf(r, 100, 20_000, 80_000)), streams: 1 + r.IntN(4),
		slowReader: oneOf(r, 0, 0, 2*time.Millisecond), payload: oneOf(r, 0, 0, 200, 1025, 16_000), peerTimeout: 30 * time.Second,
		faults: awsemu.Faults{
			Seed: seed, ToAgent: newLink(r), ToClient: newLink(r), StartPublication: r.IntN(4) == 0, LongChannelClosed: r.IntN(2) == 0,
			FailResumes: oneOf(r, 0, 0, 1, 3),
		},
		quirks: agent.Quirks{
			Fast: r.IntN(2) == 0, RecordBeforeSending: r.IntN(2) == 0, ResendAll: r.IntN(2) == 0, DialFirst: r.IntN(2) == 0, NoShellDelay: r.IntN(2) == 0,
			RefuseAtOnce: true, EagerControl: true,
		},
	}
	switch r.IntN(6) {
	case 0:
		s.faults.CutAfterMessages, s.faults.CutSide = 60+r.Int64N(400), oneOf(r, awsemu.SideClient, awsemu.SideAgent)
	case 1:
		s.faults.ByeEvery = awsemu.Duration(time.Duration(100+r.IntN(900)) * time.Millisecond)
	}
	for range r.IntN(5) {
		what := oneOf(r, cutClient, cutAgent, bye, bye, stall, expire, pauseClient)
		if r.IntN(20) == 0 {
			what = oneOf(r, restartAgent, endSession)
		}
		s.events = append(s.events, event{at: within(r, time.Second), lasts: within(r, 300*time.Millisecond), what: what})
	}
	slices.SortFunc(s.events, func(a, b event) int { return int(a.at - b.at) })
	if s.mortal() {
		s.peerTimeout = 3 * time.Second
	}
	return s
}

func newLink(r *rand.Rand) awsemu.Link {
	worst := oneOf(r, 0, 0.01, 0.05)
	return awsemu.Link{
		Delay: awsemu.Duration(oneOf(r, 0, time.Millisecond, 20*time.Millisecond)), Drop: worst * r.Float64(), DropAcks: worst * r.Float64(),
		Duplicate: worst * r.Float64(), Reorder: worst * r.Float64(), Grease: worst * r.Float64(),
	}
}

func oneOf[T any](r *rand.Rand, these ...T) T { return these[r.IntN(len(these))] }

func within(r *rand.Rand, d time.Duration) time.Duration { return time.Duration(r.Int64N(int64(d))) }

// mortal says that something may happen which a session need not survive.
func (s *schedule) mortal() bool {
	return slices.ContainsFunc(s.events, func(e event) bool { return e.what == restartAgent || e.what == endSession })
}

// String tells the story, for the report of a failure.
func (s *schedule) String() string {
	return fmt.Sprintf("%s, %d streams, %d bytes up, %d down, closed by the agent %v, slow reader %v, payload %d, faults %+v, quirks %+v, events %v",
		s.kind, s.streams, s.up, s.down, s.byAgent, s.slowReader, s.payload, s.faults, s.quirks, s.events)
}
