package agent

import "time"

// Quirks are the real agent's habits, each of which can be switched off. The zero value has all of them. Section numbers are SPEC.md's.
type Quirks struct {
	// Fast reads 32 KiB at a time and does not pause. The real agent reads at most 1,024 bytes, sends them and sleeps 1 ms, which is what limits a
	// session to about 0.7 MB/s.
	Fast bool
	// RecordBeforeSending notes a message before writing it to the socket. The real agent does so afterwards: an acknowledgement that arrives in
	// between matches nothing, and the message is sent again for ever (§4.3).
	RecordBeforeSending bool
	// ResendAll repeats every overdue message at each tick. The real agent looks only at the oldest one, every 100 ms (§4.3).
	ResendAll bool
	// CheckDigest refuses input whose payload does not match its digest. The real agent does not look (§3.5).
	CheckDigest bool
	// DialFirst reaches the port before it announces HandshakeComplete. The real agent announces first, and until it is connected it leaves input
	// unacknowledged (§4.4).
	DialFirst bool
	// KeepEarlyData leaves input unacknowledged that arrives before the handshake is complete. The real agent acknowledges it and throws it away
	// (§4.4).
	KeepEarlyData bool
	// RefuseAtOnce reports a refused port of a session without multiplexing at once. The real agent's worker crashes, which its master notices
	// after a minute (§7.4).
	RefuseAtOnce bool
	// CrashNoticed is that minute. Zero means 60 s.
	CrashNoticed time.Duration
	// NoShellDelay shows a shell's output from the start. The real agent begins after one second (§8).
	NoShellDelay bool
	// NoHandshake starts sessions without a handshake, as very old agents did (§5.1).
	NoHandshake bool
	// EagerControl reconnects the control channel within a second. The real agent waits 5 to 10 s, then twice as long each time, up to 40 min.
	EagerControl bool
}

const (
	readSize     = 1024 // StreamDataPayloadSize of AWS's agent
	fastReadSize = 32 << 10
	crashNoticed = 60 * time.Second
	shellDelay   = time.Second
)

func (q *Quirks) readSize() int {
	if q.Fast {
		return fastReadSize
	}
	return readSize
}

func (q *Quirks) crashNoticed() time.Duration {
	if q.CrashNoticed > 0 {
		return q.CrashNoticed
	}
	return crashNoticed
}
