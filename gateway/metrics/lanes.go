package metrics

import (
	"slices"
	"sync"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Lane is a data channel, as ssmproto's connections are.
type Lane interface {
	Stats() ssmproto.Stats
}

// leastSwept is from how many lanes on those that have ended are looked for when another comes.
const leastSwept = 64

// lanes are the data channels there are, and what those that have ended had counted: a counter never goes back.
type lanes struct {
	mu     sync.Mutex
	open   map[Lane]struct{}
	ended  traffic
	opened int64
	sweep  int // the number of lanes at which ended ones are looked for
}

// traffic is what lanes add up to.
type traffic struct {
	resends, resumes, messagesIn, messagesOut, bytesIn, bytesOut int64
}

func (t *traffic) add(s *ssmproto.Stats) {
	t.resends += s.Resends
	t.resumes += s.Resumes
	t.messagesIn += s.MessagesIn
	t.messagesOut += s.MessagesOut
	t.bytesIn += s.BytesIn
	t.bytesOut += s.BytesOut
}

// Track counts a lane until it has ended.
func (m *Metrics) Track(lane Lane) {
	l := &m.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.open == nil {
		l.open, l.sweep = map[Lane]struct{}{}, leastSwept
	}
	l.opened++
	l.open[lane] = struct{}{}
	if len(l.open) >= l.sweep { // nobody may ever scrape
		l.settle()
		l.sweep = max(2*len(l.open), leastSwept)
	}
}

// settle gives the present numbers of the open lanes, and takes leave of the others. The caller holds mu.
func (l *lanes) settle() []ssmproto.Stats {
	present := make([]ssmproto.Stats, 0, len(l.open))
	for lane := range l.open {
		stats := lane.Stats()
		if stats.State != ssmproto.Closed {
			present = append(present, stats)
			continue
		}
		l.ended.add(&stats)
		delete(l.open, lane)
	}
	return present
}

// collect tells of all lanes at this moment.
func (l *lanes) collect(tell func(name string, value float64, values ...string)) {
	l.mu.Lock()
	present, total, opened := l.settle(), l.ended, l.opened
	l.mu.Unlock()
	unacked, worst, resuming := 0, 0, 0
	var trips []time.Duration
	for i := range present {
		lane := &present[i]
		total.add(lane)
		unacked += lane.UnackedBytes
		worst = max(worst, lane.UnackedBytes)
		if lane.State == ssmproto.Resuming {
			resuming++
		}
		if lane.RoundTrip > 0 {
			trips = append(trips, lane.RoundTrip)
		}
	}
	tell("lanes_total", float64(opened))
	tell("lanes_active", float64(len(present)))
	tell("lanes_resuming", float64(resuming))
	tell("ssm_unacked_bytes", float64(unacked))
	tell("ssm_unacked_bytes_worst", float64(worst))
	if len(trips) > 0 {
		slices.Sort(trips)
		tell("ssm_round_trip_seconds", trips[len(trips)/2].Seconds(), "median")
		tell("ssm_round_trip_seconds", trips[len(trips)-1].Seconds(), "worst")
	}
	tell("ssm_retransmits_total", float64(total.resends))
	tell("ssm_resumes_total", float64(total.resumes))
	tell("ssm_messages_total", float64(total.messagesIn), "in")
	tell("ssm_messages_total", float64(total.messagesOut), "out")
	tell("ssm_bytes_total", float64(total.bytesIn), "in")
	tell("ssm_bytes_total", float64(total.bytesOut), "out")
}
