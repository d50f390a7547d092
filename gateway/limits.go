package gateway

import (
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Limits are the bounds of a server. A zero field takes the default that stands beside it.
type Limits struct {
	// StartupsBegin, StartupsRate and StartupsFull bound connections that have not logged in, as MaxStartups of sshd_config(5) does: from Begin on a new
	// connection is dropped with Rate percent, rising to all at Full. Higher than OpenSSH's 10:30:100, because one VS Code or Ansible user opens ten
	// connections at once and a gateway has many users.
	StartupsBegin int // 64
	StartupsRate  int // 30 percent
	StartupsFull  int // 256
	// StartupsPerSource bounds them for one IPv4 address or one IPv6 /64, which is what a single subscriber is given.
	StartupsPerSource int // 48
	// LoginGrace ends a connection that has not logged in, counted from accept: it covers version and key exchange too. A person may have to touch
	// a security key meanwhile.
	LoginGrace time.Duration // 60 s
	// AuthTries bounds failed authentication attempts on one connection.
	AuthTries int // 6
	// Connections bounds those that have logged in.
	Connections int // 4096
	// ConnectionsPerPerson bounds those of one person.
	ConnectionsPerPerson int // 128
	// MachinesPerConnection bounds the jumps and ports open at once on one connection.
	MachinesPerConnection int // 64
	// ChannelsPerConnection bounds the channels open at once on one machine through one connection. A browser behind -D opens a hundred.
	ChannelsPerConnection int // 256
	// LanesPerConnection bounds the upstream connections, each a Session Manager session, that one connection to a machine may have: bulk gets its own, apart from
	// where somebody types. With 1 everything shares one, and nothing below applies.
	LanesPerConnection int // 8
	// LanesPerFile bounds the lanes that one SFTP session (sftp, scp) spreads large files over. With 1 they stay on one.
	LanesPerFile int // 8
	// LanesPerPerson and LanesPerMachine bound the lanes beside the first of each connection. A connection that finds no room shares what it has.
	LanesPerPerson  int // 32
	LanesPerMachine int // 32
	// LaneIdle is how long a lane that carries nothing stays open, if it is not the only one.
	LaneIdle time.Duration // 60 s
	// WarmLinks bounds the sessions that wait for their person's next connection (Config.KeepWarm). Each counts among the lanes of its person and machine, too.
	WarmLinks int // 256
	// ResolveTimeout bounds finding a machine by its name.
	ResolveTimeout time.Duration // 15 s
	// ConnectTimeout bounds opening the Session Manager session, and then again logging in to the machine. Waiting for a turn before both may take as long for each
	// eight logins ahead.
	ConnectTimeout time.Duration // 60 s
	// BannerTimeout bounds the wait for the first byte of the machine's sshd, since the agent reports a port on which nobody listens late or not at all. It is
	// short enough that clients which give up after 15 s (VS Code) still read why.
	BannerTimeout time.Duration // 12 s
	// Keepalive is how often a silent client is asked for a sign of life; after KeepaliveCount silent intervals it is gone.
	Keepalive      time.Duration // 30 s
	KeepaliveCount int           // 3
	// ExpiryCheck is how often connections are judged again where expiry cuts (Config.CutExpired).
	ExpiryCheck time.Duration // 1 min
	// PortLinger is how long a plain port stays open for the rest of an answer after the client has ended its side, counted from the last byte. The
	// single-connection port session cannot carry a half-close.
	PortLinger time.Duration // 10 s
}

// WithDefaults gives the limits with their zero fields filled.
func (l Limits) WithDefaults() Limits {
	fill(&l.StartupsBegin, 64)
	fill(&l.StartupsRate, 30)
	fill(&l.StartupsFull, 256)
	fill(&l.StartupsPerSource, 48)
	fill(&l.LoginGrace, 60*time.Second)
	fill(&l.AuthTries, 6)
	fill(&l.Connections, 4096)
	fill(&l.ConnectionsPerPerson, 128)
	fill(&l.MachinesPerConnection, 64)
	fill(&l.ChannelsPerConnection, 256)
	fill(&l.LanesPerConnection, 8)
	fill(&l.LanesPerFile, 8)
	fill(&l.LanesPerPerson, 32)
	fill(&l.LanesPerMachine, 32)
	fill(&l.LaneIdle, 60*time.Second)
	fill(&l.WarmLinks, 256)
	fill(&l.ResolveTimeout, 15*time.Second)
	fill(&l.ConnectTimeout, 60*time.Second)
	fill(&l.BannerTimeout, 12*time.Second)
	fill(&l.Keepalive, 30*time.Second)
	fill(&l.KeepaliveCount, 3)
	fill(&l.ExpiryCheck, time.Minute)
	fill(&l.PortLinger, 10*time.Second)
	return l
}

// Silence is how long whoever is asked for signs of life may leave the questions unanswered before it counts as gone.
func (l Limits) Silence() time.Duration { return time.Duration(l.KeepaliveCount) * l.Keepalive }

func fill[T int | time.Duration](field *T, value T) {
	if *field <= 0 {
		*field = value
	}
}

// dropPercent is the chance to drop a new connection while n others have not logged in: sshd's MaxStartups formula, in its integer arithmetic.
func (l Limits) dropPercent(n int) int {
	switch {
	case n < l.StartupsBegin:
		return 0
	case n >= l.StartupsFull || l.StartupsRate >= 100:
		return 100
	}
	return (100-l.StartupsRate)*(n-l.StartupsBegin)/(l.StartupsFull-l.StartupsBegin) + l.StartupsRate
}

// startups counts connections that have not logged in, in all and per source.
type startups struct {
	limits Limits
	roll   func() int // 0…99

	mu       sync.Mutex
	total    int
	bySource map[netip.Prefix]int
}

func newStartups(limits Limits) *startups {
	return &startups{limits: limits, roll: func() int { return rand.IntN(100) }, bySource: map[netip.Prefix]int{}} //nolint:gosec // early drop needs chance, not secrecy
}

// enter counts a new connection, or says that it must be dropped. leave must follow an enter that said yes.
func (s *startups) enter(source netip.Addr) bool {
	block := sourceBlock(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.bySource[block] >= s.limits.StartupsPerSource || s.roll() < s.limits.dropPercent(s.total) {
		return false
	}
	s.total++
	s.bySource[block]++
	return true
}

// leave ends what enter began: the connection has logged in or is gone.
func (s *startups) leave(source netip.Addr) {
	block := sourceBlock(source)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.bySource[block]--; s.bySource[block] == 0 {
		delete(s.bySource, block)
	}
}

// sourceBlock is the net block that counts as one source.
func sourceBlock(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	block, err := a.Prefix(bits)
	if err != nil {
		return netip.Prefix{} // a peer without an IP address: all such count as one source
	}
	return block
}

// seats counts connections that have logged in, in all and per person.
type seats struct {
	limits Limits

	mu       sync.Mutex
	total    int
	byPerson map[string]int
}

func newSeats(limits Limits) *seats { return &seats{limits: limits, byPerson: map[string]int{}} }

// take counts a login, or says that there is no room. release must follow a take that said yes.
func (s *seats) take(person string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.total >= s.limits.Connections || s.byPerson[person] >= s.limits.ConnectionsPerPerson {
		return false
	}
	s.total++
	s.byPerson[person]++
	return true
}

func (s *seats) release(person string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.total--
	if s.byPerson[person]--; s.byPerson[person] == 0 {
		delete(s.byPerson, person)
	}
}
