package ssmproto

// State is where a Conn is in its life.
//
//	Connecting ───► Handshaking ───► Open ───► Draining ───► Closed
//	                     ▲             ▲           ▲            ▲
//	                     ▼             ▼           │            │
//	                     └── Resuming ─┴───────────┘            │
//	    from every state ───────────────────────────────────────┘
//
// Connecting: the first connection is being made. Handshaking: the agent has not yet said what the session is. Open: bytes move.
// Resuming: the connection was lost and a new one is being made; it leads back to where it came from, or to Draining when the owner closes.
// Draining: the owner has called Close and the last data is being delivered; a connection lost now is resumed without leaving Draining.
// Closed: over, for the reason that Read and Write give.
type State int

// The states of a Conn.
const (
	Connecting State = iota
	Handshaking
	Open
	Resuming
	Draining
	Closed
)

var stateNames = [...]string{"connecting", "handshaking", "open", "resuming", "draining", "closed"}

// String gives the name of the state.
func (s State) String() string { return stateNames[s] }

// legal holds the arrows of the drawing, except those to Closed, which lead there from everywhere.
var legal = [...][]State{
	Connecting:  {Handshaking},
	Handshaking: {Open, Resuming},
	Open:        {Resuming, Draining},
	Resuming:    {Handshaking, Open, Draining},
	Draining:    {},
	Closed:      {},
}

// enter is the one place where the state changes. It returns false, and changes nothing, when there is no such arrow: resuming, closing by the
// owner and closing by the service race, and the one that comes late learns it here. The caller holds c.mu.
func (c *Conn) enter(to State) bool {
	if !mayEnter(c.state, to) {
		return false
	}
	c.log.Debug("session state", "from", c.state.String(), "to", to.String())
	c.state = to
	c.progress.Broadcast()
	c.readable.Broadcast()
	return true
}

func mayEnter(from, to State) bool {
	if to == Closed {
		return from != Closed
	}
	for _, s := range legal[from] {
		if s == to {
			return true
		}
	}
	return false
}
