package stripe

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"time"
)

// Config says how far a Proxy may go. The zero value carries everything over the first lane.
type Config struct {
	// MaxLanes is how many streams there may be, the first included. Below 2 nothing is striped.
	MaxLanes int
	// Open opens another SFTP stream to the same server as the same user. It may take its time, and may fail: then there are fewer lanes.
	// Its context ends with Run. Close of what it returns must end a Read and a Write that are waiting.
	Open func(ctx context.Context) (io.ReadWriteCloser, error)

	// Bulk is how much of a file must have been asked for or written before it is worth further lanes. Default 1 MiB.
	Bulk int64
	// LaneWindow is how many bytes may be under way on a lane at most; on a slow lane it is less, see pace. Default 2 MiB, for 14 MiB/s over 140 ms; two requests are always allowed.
	LaneWindow int
	// ReadAhead bounds the bytes read before the client asked, all files of the stream together. Default 4 MiB; negative for none.
	ReadAhead int
	// Early is how far from its start a file may be written by WRITEs that are answered before the server has done so, for clients that wait for each
	// answer before their next request. Default 64 KiB; negative to hide no round trips at all. The package comment has what it means.
	Early int
	// Idle is how long a lane without files stays open. Default 30 s.
	Idle time.Duration
	// Stall is how long a lane may leave everything it was asked unanswered before it is given up. Default 30 s. The first lane has no such limit.
	Stall time.Duration

	// eager places every file that may be placed, and asks for lanes at once. For tests.
	eager bool

	// fresh is how long what was learned of a file before the client asked may be used: data, its end, that it is open. Two seconds but in tests.
	fresh time.Duration

	// OnLane hears of every further lane that opened or ended, and OnTransfer of every closed file that was striped.
	// They are called from Run's own goroutine and must not wait.
	OnLane     func(LaneChange)
	OnTransfer func(Transfer)
	// Log hears why a file was or was not striped. Nil for silence.
	Log *slog.Logger
}

// LaneChange is a further lane that is now there, or no longer is.
type LaneChange struct {
	Lane int // 1 and up; the first lane is 0 and never reported
	Open bool
	Err  error // why it ended, or could not be opened; nil when it was idle
}

// ErrNoRoom is what Config.Open gives when there is no way for another stream at present, and what Read of one gives when the way that it took is needed for
// something else. Neither is a failure: after a while Open is called again.
var ErrNoRoom = errors.New("stripe: no room for another lane")

// Transfer is what passed through a striped file between OPEN and CLOSE.
type Transfer struct {
	Path    string // as the client gave it
	Read    int64  // bytes answered to the client
	Written int64  // bytes that the server confirmed
	Lanes   int    // lanes that had the file open, the first included
	Err     error  // what the answer to CLOSE said if it was ours and not the server's
}

// Bounds of a stream beside those of Config.
const (
	maxOutstanding = 1024    // requests of the client's without an answer
	maxQueued      = 4 << 20 // bytes of WRITEs waiting for a lane
	maxEarly       = 8 << 20 // bytes of answers that wait for earlier ones; then only the earliest request of each file is sent on
	maxUnsent      = 1 << 20 // bytes waiting to be written to the client or to the first lane
	maxFiles       = 256     // open files that are watched for being worth it; further ones stay on the first lane
	maxFailures    = 3       // lanes that could not be opened or died, until no further is tried
	maxRounds      = 5       // comparisons of views before a file counts as changing
	handshake      = 30 * time.Second
	roomRetry      = 10 * time.Second // until Open is asked again when there was no room
	lastWords      = 3 * time.Second  // for leaving files without gaps after the end
)

func (c Config) withDefaults() Config {
	def(&c.Bulk, 1<<20)
	def(&c.LaneWindow, 2<<20)
	def(&c.ReadAhead, 4<<20)
	def(&c.Early, 64<<10)
	def(&c.Idle, 30*time.Second)
	def(&c.Stall, 30*time.Second)
	def(&c.fresh, 2*time.Second)
	if c.Open == nil {
		c.MaxLanes = 1
	}
	if c.OnLane == nil {
		c.OnLane = func(LaneChange) {}
	}
	if c.OnTransfer == nil {
		c.OnTransfer = func(Transfer) {}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return c
}

func def[T comparable](v *T, d T) {
	var zero T
	if *v == zero {
		*v = d
	}
}
