package bridge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// Gatekeeper judges what the person may do on the machine, by policy and by what key or certificate grant. The answer is nil or an *authz.Refusal. It must be
// quick: it does no I/O. For unix sockets destHost is the path and destPort 0; for actions without a destination both are zero.
type Gatekeeper interface {
	Permit(action authz.Action, destHost string, destPort int) error
}

// Observer hears what happens, for audit and metrics. Its methods are called from many goroutines, must be quick and never block.
type Observer interface {
	// ChannelOpened tells of a channel that both legs have accepted.
	ChannelOpened(c *ChannelInfo)
	// ChannelRequest tells of a request on c that was passed on or, with RefusedSuffix on its name, that was not; with ReplacedSuffix, that a forced
	// command took its place. A channel that was refused is told as the request "open-refused". detail is what an auditor needs: a command, a
	// subsystem, the name of a variable; never a value or a cookie.
	ChannelRequest(c *ChannelInfo, name, detail string)
	// ChannelClosed tells that both legs of c have closed; the closing fields of c are set.
	ChannelClosed(c *ChannelInfo)
	// GlobalRequest tells of a request to listen on the machine, or to stop; detail is host:port or the path.
	GlobalRequest(name, detail string, allowed bool)
}

// Config is what a bridge needs to know of the person and the house. Gate, Watch and Text are required.
type Config struct {
	Grants authz.ChannelGrants // PTY and ForceCommand are enforced here; about everything else in it the gate is asked
	Gate   Gatekeeper
	Watch  Observer
	Attend func(ssh.NewChannel) ssh.NewChannel // sees each session before it is opened on the machine; nil: nobody does
	Text   func(error) string                  // the sentence for the person
	Limits Limits
	Log    *slog.Logger  // nil: discarded
	Notice func() string // text for stderr of the first session, made safe for terminals by the caller; nil or empty: none
	Eager  bool          // connect before anything needs it
	Late   bool          // no SFTP request is answered before the machine has done so
}

// Limits bounds what one connection may hold. A zero field means its default.
type Limits struct {
	// Channels open or being opened at once, both directions together. A browser behind -D opens a hundred; each may buffer a window of 2 MiB.
	Channels int
	// queued requests per channel and direction, and per connection and direction, that wait for an earlier one to be answered.
	// OpenSSH sends a session's requests and all its -R in one burst. More than this ends the connection.
	Queued int
	// Forwards is how many remote listeners one connection may hold.
	Forwards int
	// Keepalive is the pause between our own keepalives on each leg. It stays below the idle timeouts of load balancers (350 s) and NAT.
	Keepalive time.Duration
	// KeepaliveTimeout ends the connection when a leg neither answers a keepalive nor sends anything else for this long.
	KeepaliveTimeout time.Duration
	// Drain is how long the surviving leg may take what the lost one had still sent.
	Drain time.Duration
	// Stall ends a channel which the client has closed while the machine takes no more of its last bytes.
	Stall time.Duration
	// Lanes is how many connections to the machine there may be at once.
	Lanes int
	// FileLanes is how many of them one SFTP session may use.
	FileLanes int
	// LaneIdle is how long a lane beside the first may carry nothing.
	LaneIdle time.Duration
	// LaneWait is how long a session waits for a lane of its own before it shares one.
	LaneWait time.Duration
	// EOFHold is how long the end of a program's output waits for its exit status, see channel.holdEOF.
	EOFHold time.Duration
}

// withDefaults fills what is zero.
func (l Limits) withDefaults() Limits {
	defaultTo(&l.Channels, 256)
	defaultTo(&l.Queued, 1024)
	defaultTo(&l.Forwards, 64)
	defaultTo(&l.Keepalive, 30*time.Second)
	defaultTo(&l.KeepaliveTimeout, 60*time.Second)
	defaultTo(&l.Drain, 5*time.Second)
	defaultTo(&l.Stall, 30*time.Second)
	defaultTo(&l.Lanes, 1)
	defaultTo(&l.FileLanes, 1)
	defaultTo(&l.LaneIdle, 60*time.Second)
	defaultTo(&l.LaneWait, 5*time.Second)
	defaultTo(&l.EOFHold, 250*time.Millisecond)
	return l
}

// defaultTo sets *v when it is zero or negative.
func defaultTo[T int | time.Duration](v *T, standard T) {
	if *v <= 0 {
		*v = standard
	}
}

// How a bridge ends. Run wraps the library's own error behind them.
var (
	ErrClientLeft  = errors.New("the client's connection ended")
	errTargetLeft  = errors.New("the connection to the machine ended")
	errClientMute  = error(&authz.Refusal{Reason: authz.ReasonTimeout, Action: "the client's answer to a keepalive"})
	errTargetMute  = error(&authz.Refusal{Reason: authz.ReasonTimeout, Action: "the machine's answer to a keepalive"})
	errTooManyReqs = errors.New("too many requests wait for an answer")
	errPanic       = errors.New("internal fault")
)

// bridge joins one client connection with its lanes, the connections to the machine. One exists per client connection: agent, X11 and remote forwards
// belong to the connection that asked for them and are never shared.
type bridge struct {
	cfg    Config
	client Leg
	up     func(context.Context) (*Link, error)

	ctx     context.Context // ends when the bridge does; its cause says why
	end     context.CancelCauseFunc
	tasks   sync.WaitGroup // every goroutine of the bridge but those of serving
	serving sync.WaitGroup // those that serve the streams of links: the last to end, so that no link is ever left unserved

	clientGone     chan struct{} // closed when the client's connection has ended
	noMoreSessions chan struct{} // closed once the client's promise is kept; a hijacked client cannot break it

	heard    atomic.Uint64 // counts what the client sent: its sign of life
	lanes    laneSet
	pace     *pace // of what goes to the client
	forwards forwardTable
	greeted  atomic.Bool // the notice has been given

	mu           sync.Mutex
	closing      bool // no more channels
	open         map[*channel]struct{}
	slots        int           // channels open or being opened
	emptied      chan struct{} // closed when closing and the last slot was given back
	lastID       uint64
	agentAllowed bool // the client asked for agent forwarding, and may
	x11Allowed   bool // the client asked for X11, and may
	listened     bool // the client asked for a remote forward
}

// Run joins client with the machine until either ends or ctx does. up makes a connection to the machine: it is called when a channel or a forward
// first needs one, or at once if cfg.Eager says so, and its error then rejects what waits, in the words of cfg.Text; and again, up to cfg.Limits.Lanes, when what is carried calls for
// more, where an error is no harm. The context of up bounds the call, not the life of the link it returns.
//
// The client's leg and every link are closed when Run returns, but for one whose Keep was called, and nothing it started still runs. The error is nil when the
// client left in good order; when ctx was canceled it is the cause, and if that is an *authz.Refusal the open sessions have been told.
func Run(ctx context.Context, client Leg, up func(context.Context) (*Link, error), cfg Config) error {
	cfg.Limits = cfg.Limits.withDefaults()
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &bridge{
		cfg: cfg, client: client, up: up,
		open:           make(map[*channel]struct{}),
		emptied:        make(chan struct{}),
		clientGone:     make(chan struct{}),
		noMoreSessions: make(chan struct{}),
	}
	b.lanes = laneSet{connect: b.connectLane, limit: cfg.Limits.Lanes, idle: cfg.Limits.LaneIdle, wait: cfg.Limits.LaneWait, turn: make(chan struct{})}
	b.forwards.limit = cfg.Limits.Forwards
	b.ctx, b.end = context.WithCancelCause(ctx)
	defer b.end(nil)
	b.pace = newPace(func() error {
		_, _, err := client.Conn.SendRequest(KeepAliveRequest, true, nil)
		return err
	}, b.spawn)
	return b.run()
}

func (b *bridge) run() error {
	b.spawn(func() {
		err := b.client.Conn.Wait()
		close(b.clientGone)
		b.end(fmt.Errorf("%w: %w", ErrClientLeft, err))
	})
	b.spawn(b.intakeOf(b.client, nil, &b.tasks).dispatch)
	if b.cfg.Eager {
		b.openFirstLane()
	}
	b.spawn(func() { b.keepAlive(b.client.Conn, &b.heard, func() { b.end(errClientMute) }) })

	<-b.ctx.Done()
	cause := context.Cause(b.ctx)
	b.stopOpening()
	b.farewell(cause)
	_ = b.client.Conn.Close()
	b.settle(b.lendable(cause))

	if errors.Is(cause, ErrClientLeft) && errors.Is(cause, io.EOF) {
		return nil
	}
	return cause
}

// spawn runs task on a goroutine that the bridge waits for. A panic ends this connection, not the gateway and everyone on it.
func (b *bridge) spawn(task func()) { b.spawnIn(&b.tasks, task) }

// spawnIn is spawn for goroutines that somebody else waits for.
func (b *bridge) spawnIn(group *sync.WaitGroup, task func()) {
	group.Go(func() {
		defer func() {
			if fault := recover(); fault != nil {
				b.cfg.Log.Error("panic in bridge", "fault", fault, "stack", string(debug.Stack()))
				b.end(fmt.Errorf("%w: %v", errPanic, fault))
			}
		}()
		task()
	})
}

// settle ends every lane but lent, waits for everything that runs, and hands the link of lent over.
func (b *bridge) settle(lent *lane) {
	b.lanes.close()
	if lent == nil {
		b.tasks.Wait()
		b.serving.Wait()
		return
	}
	late := time.AfterFunc(b.cfg.Limits.Drain, func() { _ = lent.Conn.Close() }) // for a question that the machine does not answer
	b.tasks.Wait()
	late.Stop()
	close(lent.lent)
	b.serving.Wait()
	lent.Keep()
}

// farewell lets the surviving side have what is on its way to it, for a bounded time.
func (b *bridge) farewell(cause error) {
	limit := time.NewTimer(b.cfg.Limits.Drain)
	defer limit.Stop()
	switch {
	case errors.Is(cause, ErrClientLeft):
		b.flushUp(limit.C)
	case endsInWords(cause):
		// The machine is out of reach at once; every session ends by itself, last words included (channel.explainLoss). Then the client
		// leaves: to close a socket on unread bytes resets it, and the reset overtakes what we had still to say.
		b.lanes.close()
		select {
		case <-b.emptied:
		case <-b.clientGone:
		case <-limit.C:
		}
	}
}

// flushUp lets what the client had sent still reach the machine. Its answers reach nobody, so they are not waited for: sshd answers the close of a session
// only when the program has ended, which may be never.
func (b *bridge) flushUp(limit <-chan time.Time) {
	open := b.openChannels()
	for _, c := range open {
		select {
		case <-c.upDone:
		case <-limit:
			return
		}
	}
	if len(open) == 0 {
		return
	}
	// Sent is not received: a transport that is closed on unread bytes drops what is under way. The answer to a question comes after all that was
	// sent before the question has been read.
	asked := map[*lane]bool{}
	var answers []<-chan struct{}
	for _, c := range open {
		if via := c.target().berth.lane; !asked[via] {
			asked[via] = true
			answers = append(answers, b.question(via))
		}
	}
	for _, answered := range answers {
		select {
		case <-answered:
		case <-limit:
			return
		}
	}
}

// question asks the machine of a lane for any answer; what it gives is closed when that has come, or never can.
func (b *bridge) question(via *lane) <-chan struct{} {
	answered := make(chan struct{})
	b.spawn(func() {
		defer close(answered)
		_, _, _ = via.Conn.SendRequest(KeepAliveRequest, true, nil)
	})
	return answered
}

// endsInWords tells the ends of which the person on the session should hear: the machine is lost, or somebody decided.
func endsInWords(cause error) bool {
	var refusal *authz.Refusal
	return errors.Is(cause, errTargetLeft) || errors.As(cause, &refusal) && !errors.Is(cause, errClientMute)
}

// stopOpening refuses new channels from now on.
func (b *bridge) stopOpening() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.closing = true
	if b.slots == 0 {
		close(b.emptied)
	}
}

// takeSlot counts a channel that is being opened. no says why it may not be; it is empty when it may.
func (b *bridge) takeSlot() (id uint64, no string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.closing:
		return 0, "the connection is ending"
	case b.slots >= b.cfg.Limits.Channels:
		return 0, "too many channels on this connection"
	}
	b.slots++
	b.lastID++
	return b.lastID, ""
}

// freeSlot gives back what takeSlot gave.
func (b *bridge) freeSlot() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.slots--
	if b.slots == 0 && b.closing {
		close(b.emptied)
	}
}

func (b *bridge) openChannels() []*channel {
	b.mu.Lock()
	defer b.mu.Unlock()
	list := make([]*channel, 0, len(b.open))
	for c := range b.open {
		list = append(list, c)
	}
	return list
}
