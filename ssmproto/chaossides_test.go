package ssmproto

import (
	"io"
	"time"

	"github.com/xtaci/smux"
)

// trickle writes data in pieces, with the pauses of the schedule, until it is through or write fails.
func (r *chaosRun) trickle(data []byte, write func(p []byte) error) error {
	for len(data) > 0 {
		n := min(len(data), r.plan.piece)
		if err := write(data[:n]); err != nil {
			return err
		}
		data = data[n:]
		time.Sleep(r.plan.pause)
	}
	return nil
}

// writeAll is a writer of the client.
func (r *chaosRun) writeAll(w io.Writer, l *flow) {
	err := r.trickle(l.want, func(p []byte) error {
		_, err := w.Write(p)
		return err
	})
	r.with(func() {
		r.written++
		if err != nil {
			r.errs = append(r.errs, err)
		}
	})
}

// readAll is a reader of the client, which reads on behind what it expects.
func (r *chaosRun) readAll(from io.Reader, l *flow) {
	buffer := make([]byte, 3000)
	for {
		n, err := from.Read(buffer)
		r.with(func() {
			l.got = append(l.got, buffer[:n]...)
			if err != nil {
				l.err = err
				r.errs = append(r.errs, err)
			}
		})
		if err != nil {
			return
		}
		time.Sleep(r.plan.slowReader)
	}
}

// agentTalks is the agent's writer, for all but multiplexed sessions.
func (r *chaosRun) agentTalks() {
	if r.plan.kind == muxedPort {
		return
	}
	connected := false
	for !connected {
		select {
		case <-r.over:
			return
		case <-time.After(10 * time.Millisecond):
		}
		r.with(func() { connected = r.next >= 2 || r.plan.kind == shellSession && len(r.openings) > 0 })
	}
	if r.plan.kind == commandSession {
		r.tasks.Go(func() { r.say(PayloadStdErr, r.down[1].want) })
	}
	r.say(PayloadOutput, r.down[0].want)
	if r.plan.kind == commandSession {
		r.send(PayloadExitCode, []byte("EXIT_CODE: 7"))
	}
}

func (r *chaosRun) say(kind PayloadType, data []byte) {
	_ = r.trickle(data, func(p []byte) error {
		for len(p) > 0 {
			n := min(len(p), 1024)
			r.send(kind, p[:n])
			p = p[n:]
		}
		return nil
	})
}

// serveStream is the agent's end of one smux stream. Its first byte says which it is.
func (r *chaosRun) serveStream(_ *fake, s *smux.Stream) {
	defer func() { _ = s.Close() }()
	first := make([]byte, 1)
	if _, err := io.ReadFull(s, first); err != nil {
		return
	}
	up, down := r.up[first[0]], r.down[first[0]]
	r.tasks.Go(func() {
		_ = r.trickle(down.want, func(p []byte) error {
			_, err := s.Write(p)
			return err
		})
	})
	r.with(func() { up.got = append(up.got, first...) })
	buffer := make([]byte, 3000)
	for {
		n, err := s.Read(buffer)
		r.with(func() { up.got = append(up.got, buffer[:n]...) })
		if err != nil {
			return
		}
		time.Sleep(r.plan.slowAgent)
	}
}

// mishaps makes the events of the schedule happen.
func (r *chaosRun) mishaps() {
	for _, e := range r.plan.events {
		if !r.sleep(time.Until(r.began.Add(e.at))) {
			return
		}
		r.happen(e)
	}
}

func (r *chaosRun) sleep(d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-r.over:
		return false
	}
}

func (r *chaosRun) happen(e chaosEvent) {
	switch e.what {
	case cutConnection:
		r.cut()
	case saidBye:
		r.bye()
	case paused:
		r.service(PausePublication, "0")
		r.tasks.Go(func() {
			if r.sleep(e.lasts) {
				r.service(StartPublication, "0")
			}
		})
	case pausedForGood:
		r.service(PausePublication, "0")
	case agentAway:
		r.links[0].lose(e.lasts)
		r.links[1].lose(e.lasts)
	case deadConnection:
		r.with(func() { r.deaf = true })
		r.links[0].lose(e.lasts)
		r.links[1].lose(e.lasts)
		r.tasks.Go(func() {
			r.sleep(e.lasts)
			r.with(func() { r.deaf = false })
		})
	case resumesFail:
		r.with(func() { r.fails += e.times })
		r.cut()
	case tokensExpired:
		r.with(func() { r.stale += e.times })
		r.cut()
	case agentRestarted:
		r.with(func() { r.ended = true })
		r.closeSession("the agent was restarted")
	case endedMeanwhile:
		r.with(func() { r.ended = true })
		r.cut()
	case abandoned:
		var conn chaosConn
		r.with(func() { conn = r.conn })
		if conn != nil {
			_ = conn.CloseNow()
		}
	}
}
