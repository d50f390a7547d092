package ssmproto

import (
	"log/slog"
	"net/http"
	"time"

	"github.com/gorilla/websocket"
)

// Options tune a session. The zero value works, and so does a nil pointer.
type Options struct {
	// Logger gets state changes and resumptions. Nil is silent. No secret and no payload is ever logged.
	Logger *slog.Logger
	// Dialer opens the WebSocket: proxies, TLS and the network are its matter; its buffer sizes are ours. Nil takes the proxy from the environment.
	Dialer *websocket.Dialer
	// ClientVersion is announced to the agent; DefaultClientVersion if empty. It decides about smux and keepalives (SPEC.md §5.4).
	ClientVersion string
	// MaxPayload is the size of the messages that Write cuts its data into, in bytes. 0 is 1024, which is what AWS's own client sends.
	MaxPayload int
	// DiscoverPayload is up to which size larger messages are tried, in bytes, while a port session sends bulk. 0 tries none. A size is used once the agent has
	// acknowledged a probe of it, and no byte depends on a probe; but what the service does with one that it dislikes is not known, and it may cost a
	// connection, which is then resumed (SPEC.md §10). Nothing is remembered beyond the session.
	DiscoverPayload int
	// MessageRate is how many messages a second are sent, data and acknowledgements together. 0 is 900, below the limit of the service
	// (SPEC.md §4.6); negative is no limit.
	MessageRate int
	// Window bounds the memory of unacknowledged data, in bytes; Write waits when it is full. 0 is 512 KiB, or if that is more, 256 messages, but not more
	// than 8 MiB; without a rate limit 16 messages. With a rate limit less is held on short paths: twice what is under way in a round trip.
	Window int
	// ReadBuffer bounds the memory of received data that nobody reads, in bytes; as much again may wait for a missing message. While a
	// Write waits for acknowledgements, which come behind the data, it may be 32 MiB more. 0 is 512 KiB.
	ReadBuffer int
	// PingInterval is the time between WebSocket pings. 0 is 25 s.
	PingInterval time.Duration
	// SilenceLimit is how long the service may send nothing, not even a pong, before the connection counts as lost. 0 is 60 s.
	SilenceLimit time.Duration
	// HandshakeTimeout bounds the opening of a connection, and the wait for the agent's handshake or first output; DialShell goes on without. 0 is 15 s.
	HandshakeTimeout time.Duration
	// ResumeFor is how long an outage may last before the session fails with ErrConnectionLost. 0 is 5 min.
	ResumeFor time.Duration
	// PeerTimeout is how long the agent may acknowledge nothing, while it has something to acknowledge and the connection is up, before the session
	// fails with ErrPeerSilent. 0 is 5 min.
	PeerTimeout time.Duration
	// PeerCheck is after how long a silence of the agent it is asked for a sign of life, so that a dead instance is noticed by a session that only
	// listens; PeerTimeout begins then. 0 never asks: the question counts as activity, so that the service would not end idle sessions (SPEC.md §9.4).
	PeerCheck time.Duration
	// DrainTimeout is how long Close waits for the acknowledgement of the last data. 0 is 5 s.
	DrainTimeout time.Duration
	// WaitForPeer holds the first data back until the other side has sent some (at most 2 s). It is right for protocols in which the server
	// speaks first, such as SSH: what arrives before the agent is ready may be acknowledged and thrown away (SPEC.md §4.4).
	WaitForPeer bool
}

// resolved gives the options with every default filled in.
func (o *Options) resolved() Options {
	var r Options
	if o != nil {
		r = *o
	}
	if r.Logger == nil {
		r.Logger = slog.New(slog.DiscardHandler)
	}
	if r.Dialer == nil {
		r.Dialer = &websocket.Dialer{Proxy: http.ProxyFromEnvironment}
	}
	if r.ClientVersion == "" {
		r.ClientVersion = DefaultClientVersion
	}
	r.MaxPayload = orDefault(r.MaxPayload, 1024)
	if r.MessageRate == 0 {
		r.MessageRate = 900
	}
	r.MessageRate = max(r.MessageRate, 0)
	r.Window = orDefault(r.Window, defaultWindow(max(r.MaxPayload, r.DiscoverPayload)+Overhead, r.MessageRate))
	r.ReadBuffer = orDefault(r.ReadBuffer, 512<<10)
	r.PingInterval = orDefault(r.PingInterval, 25*time.Second)
	r.SilenceLimit = orDefault(r.SilenceLimit, 60*time.Second)
	r.HandshakeTimeout = orDefault(r.HandshakeTimeout, 15*time.Second)
	r.ResumeFor = orDefault(r.ResumeFor, 5*time.Minute)
	r.PeerTimeout = orDefault(r.PeerTimeout, 5*time.Minute)
	r.DrainTimeout = orDefault(r.DrainTimeout, 5*time.Second)
	return r
}

// defaultWindow is enough for messages of so many bytes at the default rate over a path of 140 ms. Without a limit of the rate it is what keeps queues short.
func defaultWindow(message, rate int) int {
	if rate == 0 {
		return max(512<<10, 16*message)
	}
	return max(512<<10, min(256*message, 8<<20), 16*message)
}

func orDefault[T int | time.Duration](value, standard T) T {
	if value <= 0 {
		return standard
	}
	return value
}
