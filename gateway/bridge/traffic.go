package bridge

import (
	"path"
	"strings"
	"sync"
	"time"
)

// traffic is what a channel is about to carry, as far as its lane is concerned.
type traffic int

const (
	undecided traffic = iota // a session that runs nothing yet
	typing                   // a terminal: somebody waits for each keystroke, also after much has been shown
	talk                     // small questions and answers, as an editor and its server exchange them: somebody may wait for each
	other                    // a command, a forward: nobody knows how much will come
	bulk                     // a transfer, by its kind or by what has been seen
	traffics                 // how many there are
)

// String implements fmt.Stringer, for the log.
func (t traffic) String() string {
	return [traffics]string{"undecided", "typing", "talk", "other", "bulk"}[t]
}

// attended reports whether somebody waits for each echo.
func (t traffic) attended() bool { return t == typing || t == talk }

// trafficOf tells what a channel carries from its type alone. What the machine opens has no choice of lanes; it matters to what comes after it.
func trafficOf(channelType string) traffic {
	switch channelType {
	case "session":
		return undecided
	case "auth-agent@openssh.com", "agent-connect", "x11":
		return talk
	}
	return other
}

// trafficOfProgram tells it from what a session runs. tar and git are told by what they move: see meter.
func trafficOfProgram(p Program, terminal bool) traffic {
	switch {
	case terminal:
		return typing
	case p.Request == "shell":
		return talk
	case p.Request == "subsystem" && p.Command == "sftp", isCopier(p.Command):
		return bulk
	}
	return other
}

// isCopier recognizes the far sides of scp -O and rsync as their near sides start them.
func isCopier(command string) bool {
	words := strings.Fields(command)
	if len(words) < 2 {
		return false
	}
	switch path.Base(words[0]) {
	case "rsync":
		return words[1] == "--server"
	case "scp":
		for _, word := range words[1:] {
			if word == "-t" || word == "-f" {
				return true
			}
		}
	case "sftp-server":
		return true
	}
	return false
}

// A channel is in bulk while it moves bulkBytes, both directions together, within each bulkTime: more than anybody reads or a prompt needs, and a second of
// what one Session Manager session carries.
const (
	bulkBytes = 1 << 20
	bulkTime  = 5 * time.Second
)

// A channel is talk when the client has spoken again after the machine has, talkTurns times with a talkPause between them. It stays so until it is in bulk, and
// its lane is kept quiet for it until it has been silent for talkSilence.
const (
	talkTurns   = 3
	talkPause   = 500 * time.Millisecond
	talkSilence = 60 * time.Second
)

// meter recognizes what a channel of unknown traffic is. The zero value is ready.
type meter struct {
	mu       sync.Mutex
	is       traffic   // talk or bulk while it is recognized, else undecided
	since    time.Time // beginning of the stretch in which moved is counted
	moved    int
	answered bool // the machine has spoken last
	turns    int
	turned   time.Time // the last turn that counted
}

// add counts n bytes and reports what they show, where that is news. Each turn of a talk is.
func (m *meter) add(n int, from side, now time.Time) (is traffic, news bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now.Sub(m.since) > bulkTime {
		if m.is == bulk { // this stretch had less, or there was none
			m.is, m.turns, news = undecided, 0, true
		}
		m.since, m.moved = now, 0
	}
	turn := m.turn(from, now)
	m.moved += n
	switch {
	case m.moved >= bulkBytes:
		news = m.is != bulk
		m.is, m.since, m.moved = bulk, now, 0
		return bulk, news
	case turn && m.turns >= talkTurns && m.is != bulk:
		m.is = talk
		return talk, true
	}
	return other, news
}

// turn notes who speaks, and reports a turn that counts. The caller holds mu.
func (m *meter) turn(from side, now time.Time) bool {
	turned := m.answered && from == fromClient
	m.answered = from == fromTarget
	pause := now.Sub(m.turned)
	if !turned || pause < talkPause {
		return false
	}
	if pause > talkSilence {
		m.turns = 0
	}
	m.turns++
	m.turned = now
	return true
}
