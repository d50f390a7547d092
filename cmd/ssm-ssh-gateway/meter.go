package main

import (
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"time"
)

// meterInterval is how often the counters on a terminal are written anew.
const meterInterval = time.Second

// clearLine goes to the begin of a terminal's line and erases it (ECMA-48 CR, EL).
const clearLine = "\r\x1b[K"

// meter counts what is forwarded and tells the user: lines that stay, and on a terminal a last line with the counters.
type meter struct {
	live bool // out is a terminal

	open, total, up, down atomic.Int64

	mu  sync.Mutex
	out io.Writer
}

func newMeter(out io.Writer) *meter {
	_, live := terminalOf(out)
	return &meter{out: out, live: live}
}

// opened counts a connection, until what it gives is called.
func (m *meter) opened() (closed func()) {
	m.open.Add(1)
	m.total.Add(1)
	return func() { m.open.Add(-1) }
}

func (m *meter) sent(n int)     { m.up.Add(int64(n)) }
func (m *meter) received(n int) { m.down.Add(int64(n)) }

// say writes a line that stays.
func (m *meter) say(format string, args ...any) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.live {
		_, _ = io.WriteString(m.out, clearLine)
	}
	_, _ = fmt.Fprintf(m.out, "ssm-ssh-gateway: "+format+"\n", args...)
}

// run shows the counters on a terminal until the function it gives is called, which leaves the last ones standing.
func (m *meter) run() (stop func()) {
	if !m.live {
		return func() {}
	}
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		ticker := time.NewTicker(meterInterval)
		defer ticker.Stop()
		for {
			m.show("")
			select {
			case <-ticker.C:
			case <-quit:
				m.show("\n")
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}

func (m *meter) show(end string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	_, _ = fmt.Fprintf(m.out, clearLine+"%d connections (%d in all), %s up, %s down"+end,
		m.open.Load(), m.total.Load(), size(m.up.Load()), size(m.down.Load()))
}

// size writes a number of bytes for people.
func size(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, prefix := float64(n), 0
	for ; value >= unit && prefix < len("kMGTPE"); prefix++ {
		value /= unit
	}
	return fmt.Sprintf("%.1f %cB", value, "kMGTPE"[prefix-1])
}
