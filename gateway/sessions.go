package gateway

import (
	"cmp"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// tally counts what one stay has carried so far, for whoever asks while it lasts. The zero value is ready.
type tally struct {
	in, out atomic.Int64 // of channels that have closed, and of ports

	mu   sync.Mutex
	open map[*bridge.ChannelInfo]struct{} // count by themselves
}

func (t *tally) opened(c *bridge.ChannelInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.open == nil {
		t.open = map[*bridge.ChannelInfo]struct{}{}
	}
	t.open[c] = struct{}{}
}

func (t *tally) closed(c *bridge.ChannelInfo) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.open, c)
	t.in.Add(c.In.Load())
	t.out.Add(c.Out.Load())
}

// sum gives the bytes from the client to the machine, and back.
func (t *tally) sum() (in, out int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	in, out = t.in.Load(), t.out.Load()
	for c := range t.open {
		in += c.In.Load()
		out += c.Out.Load()
	}
	return in, out
}

// metered is the client's side of a port, counting.
type metered struct {
	net.Conn
	tally *tally
}

// Read counts what comes from the client.
func (m metered) Read(b []byte) (int, error) {
	n, err := m.Conn.Read(b)
	m.tally.in.Add(int64(n))
	return n, err
}

// Write counts what goes to the client.
func (m metered) Write(b []byte) (int, error) {
	n, err := m.Conn.Write(b)
	m.tally.out.Add(int64(n))
	return n, err
}

// CloseWrite passes the end of the machine's side on.
func (m metered) CloseWrite() error {
	if half, ok := m.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// stayView is one live stay as `sessions` tells it.
type stayView struct {
	Ref      string    `json:"ref"` // finds it in log and audit
	Target   string    `json:"target"`
	Instance string    `json:"instance"` // account/region/id
	Port     int       `json:"port"`
	OSUser   string    `json:"os_user,omitempty"` // none while it is not known, and for ports
	Mode     string    `json:"mode"`              // inspected, passthrough or port
	Since    time.Time `json:"since"`
	Source   string    `json:"source,omitempty"`
	BytesIn  int64     `json:"bytes_in"`  // from the client to the machine
	BytesOut int64     `json:"bytes_out"` // from the machine to the client
}

// sessionsOf lists where a person is now, over all their connections, the longest stay first.
func (s *Server) sessionsOf(person string, asJSON bool) reply {
	stays := []stayView{}
	for _, c := range s.connections() {
		stays = append(stays, c.staysOf(person)...)
	}
	slices.SortFunc(stays, func(a, b stayView) int { return cmp.Or(a.Since.Compare(b.Since), cmp.Compare(a.Ref, b.Ref)) })
	if asJSON {
		return jsonReply(stays)
	}
	if len(stays) == 0 {
		return reply{stderr: "you are on no machine\n"}
	}
	return reply{stdout: table(len(stays), func(i int) []string {
		stay := stays[i]
		return []string{
			stay.Ref, orElse(stay.Target, "-"), orElse(stay.OSUser, "-"), stay.Mode, "since " + stay.Since.Format(time.RFC3339),
			"in " + strconv.FormatInt(stay.BytesIn, 10), "out " + strconv.FormatInt(stay.BytesOut, 10),
		}
	})}
}

// staysOf gives the stays on this connection, if it is the person's.
func (c *conn) staysOf(person string) []stayView {
	c.mu.Lock()
	p := c.proof
	visits := make([]*visit, 0, len(c.visits))
	for v := range c.visits {
		visits = append(visits, v)
	}
	c.mu.Unlock()
	if p == nil || p.identity.Person != person {
		return nil
	}
	stays := make([]stayView, 0, len(visits))
	for _, v := range visits {
		r := v.current()
		stay := stayView{
			Ref: v.ref, Target: r.named, Instance: r.target.Place(), Port: r.port, OSUser: r.osUser, Mode: v.mode, Since: v.began.UTC().Truncate(time.Second),
		}
		if c.source.IsValid() {
			stay.Source = c.source.String()
		}
		stay.BytesIn, stay.BytesOut = v.tally.sum()
		stays = append(stays, stay)
	}
	return stays
}
