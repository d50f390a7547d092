package bridge

import (
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"
)

// end is one leg's half of a channel.
type end struct {
	ch   ssh.Channel
	reqs <-chan *ssh.Request
}

// channel is one channel of the client joined with its mirror on the machine.
//
//	client data ──[gate: a program runs]──► target data,  EOF, then CLOSE when the client's requests have ended too
//	client data ◄── stdout, stderr ──────── target data,  EOF after the exit status, then CLOSE when the target's requests have ended too
//
// The library shows the end of data before the requests that came ahead of it, so neither may stand for the other: closing at the end of data loses exit
// codes, closing at the exit status loses output (golang/go#29733).
type channel struct {
	bridge *bridge
	info   *ChannelInfo
	client end
	asked  *requestQueue // the client's requests
	flow   meter

	landed     atomic.Pointer[landing] // the machine's half, see target
	prelude    prelude
	placed     func()        // says that the machine's half changes no more
	placedGate chan struct{} // closed by placed
	files      bool          // carryFiles does the copying, see isFiles; set before placed
	filesDone  chan struct{} // closed when it has
	moving     sync.Mutex
	stayed     bool // guarded by moving: the machine has closed its half

	started      func()        // opens the gate: the machine has been asked to run a program, and agreed
	running      chan struct{} // the gate
	inputEnded   chan struct{} // the client has ended its data
	clientEnded  chan struct{} // the client has closed, and its requests are done
	targetEnded  chan struct{} // the machine has closed, and its requests are done
	upDone       chan struct{} // the machine has our close
	exitReported func()
	exited       chan struct{} // the client has the exit status or signal

	stderrMu sync.Mutex // stderr toward the client has two writers, the program and ourselves
	eofSent  bool       // guarded by stderrMu
}

// newChannel makes a channel before the client can send anything on it: what a client sends and leaves behind is waited for from then on. Both halves are filled in
// before run; cancel must follow where it does not come to that.
func (b *bridge) newChannel(info *ChannelInfo, target *landing) *channel {
	c := &channel{
		bridge: b, info: info, placedGate: make(chan struct{}),
		running: make(chan struct{}), exited: make(chan struct{}),
		inputEnded: make(chan struct{}), clientEnded: make(chan struct{}), targetEnded: make(chan struct{}),
		upDone: make(chan struct{}), filesDone: make(chan struct{}),
	}
	c.asked = b.newQueue(c.fromClient)
	c.landed.Store(target)
	c.prelude.over = b.lanes.limit == 1
	c.placed = sync.OnceFunc(func() { close(c.placedGate) })
	c.started = sync.OnceFunc(func() { close(c.running) })
	c.exitReported = sync.OnceFunc(func() { close(c.exited) })
	if !c.isSession() { // other channels carry data from the start
		c.placed()
		c.started()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[c] = struct{}{}
	return c
}

// cancel is for a channel that did not come to be.
func (c *channel) cancel() {
	close(c.upDone)
	c.bridge.forget(c)
}

func (b *bridge) forget(c *channel) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.open, c)
}

func (c *channel) isSession() bool { return c.info.Type == "session" }

// run carries the channel until both legs have closed it.
func (c *channel) run() {
	b := c.bridge
	b.cfg.Watch.ChannelOpened(c.info)

	var parts sync.WaitGroup
	b.spawnIn(&parts, c.serveClient)
	b.spawnIn(&parts, c.serveTarget)
	b.spawnIn(&parts, c.carryUp)
	b.spawnIn(&parts, c.carryDown)
	parts.Wait()
	b.leave(c.target().berth)

	b.forget(c)
	c.info.Closed = time.Now()
	b.cfg.Watch.ChannelClosed(c.info)
}

// carryUp brings the client's data to the machine, then its end, then its close.
func (c *channel) carryUp() {
	defer close(c.upDone)
	runs := c.awaitProgram()
	to := c.target()
	switch {
	case runs && c.isFiles():
		files := c.carryFiles(to)
		close(c.filesDone)
		files.Wait() // a channel wakes one reader at its end, so there may be no other
		_, _ = io.Copy(io.Discard, c.client.ch)
	case runs:
		close(c.filesDone)
		_ = carry(to.ch, c.client.ch, smallCopy, func(n int) {
			c.info.In.Add(int64(n))
			c.bridge.heard.Add(1)
			c.measure(to, fromClient, n)
		})
		close(c.inputEnded)
		_ = to.ch.CloseWrite()
	default:
		close(c.filesDone)
	}
	<-c.clientEnded
	_ = to.ch.Close()
}

// isFiles reports whether carryFiles does the copying.
func (c *channel) isFiles() bool { return closedAlready(c.placedGate) && c.files }

// measure counts what is carried toward the recognition of what it is.
func (c *channel) measure(at *landing, from side, n int) {
	if c.bridge.lanes.limit == 1 {
		return
	}
	if is, news := c.flow.add(n, from, time.Now()); news {
		c.bridge.found(at.berth, is)
	}
}

// awaitPlace waits until the machine's half changes no more. It has nothing to say before it runs a program.
func (c *channel) awaitPlace() *landing {
	select {
	case <-c.placedGate:
	case <-c.clientEnded:
	case <-c.targetEnded:
	}
	return c.target()
}

// awaitProgram holds the client's data, and above all its end, until a program is there to read: sshd swallows an EOF that comes before "exec", and the
// program then waits for input for ever. It reports false when the client closed before anything ran.
func (c *channel) awaitProgram() bool {
	select {
	case <-c.running:
		return true
	case <-c.clientEnded:
	case <-c.targetEnded:
		// Nobody will read any more, but the client's window must not stay shut while it comes to its own end.
		return true
	}
	select {
	case <-c.running: // both were true
		return true
	default:
		return false
	}
}

// carryDown brings the machine's output to the client, then its end, then its close.
func (c *channel) carryDown() {
	var streams sync.WaitGroup
	if c.isSession() { // extended data exists on sessions only (RFC 4254 §5.2)
		c.bridge.spawnIn(&streams, func() {
			c.giveNotice()
			from := c.awaitPlace()
			_ = carry(stderrOf{c}, from.ch.Stderr(), stderrCopy, func(n int) { c.countDown(from, n) })
		})
	}
	from := c.awaitPlace()
	if c.isFiles() {
		<-c.filesDone
	} else {
		_ = carry(paced{c, from}, from.ch, smallCopy, func(n int) { c.countDown(from, n) })
	}
	streams.Wait()
	c.holdEOF()
	if closedAlready(c.targetEnded) {
		c.asked.settle() // whether a program runs is known when its request has been answered
		c.explainLoss()  // while stderr is still open
	}
	c.closeWriteToClient()
	<-c.targetEnded
	// A quick program is over before its "exec" has been answered here: the answer goes first. What else waits fails at once, its machine has closed.
	c.asked.settle()
	_ = c.client.ch.Close()
}

// countDown counts what the machine sent.
func (c *channel) countDown(from *landing, n int) {
	c.info.Out.Add(int64(n))
	from.berth.lane.heard.Add(1)
	c.measure(from, fromTarget, n)
}

// holdEOF lets the exit status go first: the order in which sshd sends both is a matter of luck, and some clients read the status only until EOF.
// A program may also close its output long before it ends, so the wait is short, unless the client has ended its input: then EOF makes OpenSSH's client close
// the channel, the library answers a close at once, and the status, when it comes, has nowhere to go. A client that waits for EOF to end its input has
// not ended it, so that nobody waits for each other.
func (c *channel) holdEOF() {
	if !c.isSession() {
		return
	}
	limit := time.NewTimer(c.bridge.cfg.Limits.EOFHold)
	defer limit.Stop()
	select {
	case <-c.exited:
	case <-c.targetEnded:
	case <-c.clientEnded:
	case <-limit.C:
		if closedAlready(c.inputEnded) {
			c.awaitExit()
		}
	}
}

// awaitExit waits for the program to end, or anybody to leave.
func (c *channel) awaitExit() {
	select {
	case <-c.exited:
	case <-c.targetEnded:
	case <-c.clientEnded:
	}
}

func (c *channel) closeWriteToClient() {
	c.stderrMu.Lock()
	defer c.stderrMu.Unlock()
	if !c.eofSent {
		c.eofSent = true
		_ = c.client.ch.CloseWrite()
	}
}

// explainLoss tells the person why the program's end was not seen: the connection to the machine ended, by itself or because the session was cut.
func (c *channel) explainLoss() {
	if !c.isSession() || closedAlready(c.exited) || closedAlready(c.clientEnded) || !closedAlready(c.running) {
		return
	}
	via := c.target().berth.lane
	// The library ends a lost connection's channels a moment before it says that the connection is lost.
	moment := time.NewTimer(c.bridge.cfg.Limits.EOFHold)
	defer moment.Stop()
	select {
	case <-via.Gone:
	case <-via.mute:
	case <-c.bridge.ctx.Done():
	case <-moment.C:
		return
	}
	c.info.Cause = via.lost(c.bridge.ctx)
	c.tell(c.bridge.cfg.Text(c.info.Cause))
}

// pressTarget runs after the client closed the channel: what it had sent still goes to the machine, unless that takes nothing any more.
func (c *channel) pressTarget() {
	check := time.NewTicker(c.bridge.cfg.Limits.Stall)
	defer check.Stop()
	for before := c.info.In.Load(); ; {
		select {
		case <-c.upDone:
			return
		case <-check.C:
		}
		now := c.info.In.Load()
		if now == before {
			_ = c.target().ch.Close() // answered with the machine's own close, which frees the blocked write
			return
		}
		before = now
	}
}

// stderrOf writes to stderr of the client's half.
type stderrOf struct{ c *channel }

// Write implements io.Writer.
func (w stderrOf) Write(p []byte) (int, error) {
	w.c.stderrMu.Lock()
	defer w.c.stderrMu.Unlock()
	return w.c.client.ch.Stderr().Write(p)
}

// tell writes a sentence of ours to the session's stderr. Never to stdout: programs parse that.
func (c *channel) tell(sentence string) {
	if !c.isSession() || sentence == "" {
		return
	}
	c.stderrMu.Lock()
	defer c.stderrMu.Unlock()
	if c.eofSent {
		return
	}
	// The client's terminal may be in raw mode, where a line feed alone makes a staircase.
	text := strings.ReplaceAll(strings.TrimRight(sentence, "\r\n"), "\r\n", "\n")
	_, _ = c.client.ch.Stderr().Write([]byte(strings.ReplaceAll(text, "\n", "\r\n") + "\r\n"))
}

// giveNotice shows the notice, once per connection.
func (c *channel) giveNotice() {
	if b := c.bridge; b.cfg.Notice != nil && !b.greeted.Swap(true) {
		c.tell(b.cfg.Notice())
	}
}
