package gateway

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
	typing                   // somebody waits for each keystroke: a terminal, or a shell
	other                    // a command, a forward: nobody knows how much will come
	bulk                     // a transfer, by its kind or by what has been seen
	traffics                 // how many there are
)

// trafficOf tells what a channel carries from its type alone.
func trafficOf(channelType string) traffic {
	if channelType == "session" {
		return undecided
	}
	return other
}

// trafficOfProgram tells it from what a session runs. tar and git are told by what they move: see meter.
func trafficOfProgram(p program, terminal bool) traffic {
	switch {
	case terminal || p.request == "shell":
		return typing
	case p.request == "subsystem" && p.command == "sftp", isCopier(p.command):
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

// A channel is in bulk when it moves bulkBytes, both directions together, within bulkTime: more than anybody reads or a prompt needs, and a second of
// what one Session Manager session carries.
const (
	bulkBytes = 1 << 20
	bulkTime  = 5 * time.Second
)

// meter recognizes bulk. The zero value is ready.
type meter struct {
	mu    sync.Mutex
	moved int
	since time.Time
	seen  bool
}

// add counts n bytes and reports whether bulk was recognized with them: true at most once.
func (m *meter) add(n int, now func() time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.seen {
		return false
	}
	if m.moved == 0 {
		m.since = now()
	}
	m.moved += n
	if m.moved < bulkBytes {
		return false
	}
	m.seen = now().Sub(m.since) <= bulkTime
	m.moved = 0
	return m.seen
}
