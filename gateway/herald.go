package gateway

import (
	"context"
	"io"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// herald tells the person on the first session of a stay what they are waiting for, while the machine is being reached: on stderr only, and only when it takes
// long. The zero value is ready.
type herald struct {
	mu       sync.Mutex
	speak    func(line string) // nil until a session has waited for long, and again when the machine is there
	pending  []string          // what would have been said before
	attended bool              // the first session has come
	over     bool
	before   time.Duration // how long the person has waited already, before there was a session
}

// heraldPending bounds what is kept to be said.
const heraldPending = 4

// heraldKey finds the herald of a stay in its context.
type heraldKey struct{}

func withHerald(ctx context.Context, h *herald) context.Context {
	return context.WithValue(ctx, heraldKey{}, h)
}

// Tell shows a line to the person who waits for what is done under ctx, if somebody does and can be shown something. It is for those below Cloud who know what
// the waiting is for. It does not wait for the person's client.
func Tell(ctx context.Context, line string) {
	if h, ok := ctx.Value(heraldKey{}).(*herald); ok {
		h.say(line)
	}
}

// say shows a line, now or when the waiting has become long.
func (h *herald) say(line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	switch {
	case h.over:
	case h.speak != nil:
		h.speak(line)
	case len(h.pending) < heraldPending:
		h.pending = append(h.pending, line)
	}
}

// begin lets speak be heard, with what has been waiting for that. It says no when there is nothing to wait for any more.
func (h *herald) begin(speak func(line string)) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over {
		return false
	}
	h.speak = speak
	for _, line := range h.pending {
		speak(line)
	}
	h.pending = nil
	return true
}

// first reports, once, that nobody has been told yet and there is something to tell.
func (h *herald) first() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.over || h.attended {
		return false
	}
	h.attended = true
	return true
}

// held notes how long the person's login was held while the machine was being reached.
func (h *herald) held(while time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.before += while
}

// patience is how much of a time is left to wait in silence.
func (h *herald) patience(silence time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return silence - h.before
}

// end is called when the machine is there, or is known not to be.
func (h *herald) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.over, h.speak, h.pending = true, nil, nil
}

// attend makes the first session of a stay one that is told what it waits for. It is how a bridge takes its sessions in.
func (v *visit) attend(nc ssh.NewChannel) ssh.NewChannel {
	if !v.herald.first() {
		return nc
	}
	w := &waiting{NewChannel: nc, visit: v, lines: make(chan string, heraldPending+1), answered: make(chan struct{}), told: make(chan struct{})}
	v.conn.tasks.Go(func() { w.run(v.herald.patience(v.conn.srv.cfg.ProgressAfter)) })
	return w
}

// waiting is a session that waits for its machine. When that takes long, or the login needs to know whether the client forwards an agent, it is accepted ahead
// of the machine's own answer, so that there is a stderr to write to and a request to hear; if the machine then says no, it ends as a program that says so.
type waiting struct {
	ssh.NewChannel
	visit    *visit
	lines    chan string
	once     sync.Once
	answered chan struct{} // closed by Accept and Reject
	told     chan struct{} // closed when no more is written here

	// Valid when told is closed.
	ahead  bool // it has been accepted, or that was tried
	stream ssh.Channel
	reqs   <-chan *ssh.Request
	err    error
}

// run speaks to the session from the time that the waiting is long, or the agent is asked for, to its end.
func (w *waiting) run(patience time.Duration) {
	defer close(w.told)
	long := time.NewTimer(patience)
	defer long.Stop()
	select {
	case <-long.C:
		r := w.visit.current()
		w.lines <- "starting a session on " + printable(r.named, wordLimit)
	case <-w.visit.agent.asked:
	case <-w.answered:
		return
	case <-w.visit.ctx.Done():
		return
	}
	if !w.visit.herald.begin(w.speak) {
		return
	}
	w.ahead = true
	if w.accept(); w.err != nil {
		return
	}
	for {
		select {
		case line := <-w.lines:
			_, _ = io.WriteString(w.stream.Stderr(), terminalLines(line))
		case <-w.answered:
			return
		case <-w.visit.ctx.Done():
			return
		}
	}
}

// speak hands a line over. It never waits: who does not read, misses it.
func (w *waiting) speak(line string) {
	select {
	case w.lines <- printable(line, wordLimit):
	default:
	}
}

// accept takes the session in. Its requests must wait for the machine, and the reader of the client's connection must not wait for them.
func (w *waiting) accept() {
	stream, reqs, err := w.NewChannel.Accept()
	if err != nil {
		w.err = err
		w.visit.agent.hear(nil)
		return
	}
	kept := make(chan *ssh.Request, foyerRequests)
	w.visit.conn.tasks.Go(func() { // ends with the channel; whoever has it serves its requests to the end
		defer close(kept)
		defer w.visit.agent.hear(nil)
		for req := range reqs {
			w.visit.agent.hear(req)
			kept <- req
		}
	})
	w.stream, w.reqs = stream, kept
}

// settle ends the telling. It reports whether the session has been accepted already.
func (w *waiting) settle() bool {
	w.visit.herald.end()
	w.once.Do(func() { close(w.answered) })
	<-w.told
	return w.ahead
}

// Accept is called when the machine has agreed.
func (w *waiting) Accept() (ssh.Channel, <-chan *ssh.Request, error) {
	if w.settle() {
		return w.stream, w.reqs, w.err
	}
	return w.NewChannel.Accept()
}

// Reject is called when there is no machine, or it does not agree.
func (w *waiting) Reject(reason ssh.RejectionReason, message string) error {
	if !w.settle() {
		return w.NewChannel.Reject(reason, message)
	}
	if w.err != nil {
		return w.err
	}
	defer func() { _ = w.stream.Close() }()
	w.awaitProgram()
	w.visit.conn.tasks.Go(func() { ssh.DiscardRequests(w.reqs) }) // ends with the channel
	_, err := io.WriteString(w.stream.Stderr(), terminalLines(message))
	_, _ = w.stream.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{bridge.RefusedStatus}))
	return err
}

// programWait bounds how long a session that has been accepted waits to be asked for a program.
const programWait = 5 * time.Second

// awaitProgram agrees to what comes up to the program, as refuseProgram does, because OpenSSH shows nothing of a session whose program was refused.
func (w *waiting) awaitProgram() {
	limit := time.NewTimer(programWait)
	defer limit.Stop()
	for {
		select {
		case req, ok := <-w.reqs:
			if !ok {
				return
			}
			_ = req.Reply(true, nil)
			if isProgram(req.Type) {
				return
			}
		case <-limit.C:
			return
		}
	}
}
