package ssmproto

import "time"

const (
	// discoverAfter is how much data a session sends before larger messages are tried: a session that only carries keystrokes has no use for them, and
	// should not be the one that learns how the service refuses them.
	discoverAfter = 64 << 10
	// probeTries is how often a size is tried before silence disproves it: a probe may be lost like any other message.
	probeTries = 3
	// probeWait is the least time that a probe has for its acknowledgement.
	probeWait = time.Second
)

// discovery finds out how large a payload may be, in the manner of RFC 8899, without risking a byte: a probe is a large message with a number that the agent
// has acknowledged before. It acknowledges it again and throws it away, and the acknowledgement names the probe by its id (SPEC.md §10). One probe is under
// way at a time, each twice as large as what is proven. It has no clock, lock or goroutine.
type discovery struct {
	first int // what needs no proof: Options.MaxPayload
	size  int // proven on this connection; what messages carry
	most  int // nothing larger is tried

	probe *frame // under way; nil when none is
	id    UUID   // of it
	tries int
	due   time.Time // when it is sent again, or given up
}

// newDiscovery begins with messages of first bytes and tries up to most.
func newDiscovery(first, most int) discovery {
	return discovery{first: first, size: first, most: max(first, most)}
}

// over says that there is nothing left to try.
func (d *discovery) over() bool { return d.size >= d.most }

// trying is the payload of the probe under way.
func (d *discovery) trying() int { return len(d.probe.buf) - Overhead }

// begin makes the next probe, with the number of a message that was acknowledged before.
func (d *discovery) begin(seq int64, now time.Time) {
	size := min(2*d.size, d.most)
	d.id, d.tries = NewUUID(), 0
	m := Message{
		Type: InputStreamData, SchemaVersion: 1, Created: now, SequenceNumber: seq, ID: d.id, PayloadType: PayloadOutput, Payload: make([]byte, size),
	}
	d.probe = &frame{buf: m.Append(nil), seq: seq, kind: PayloadOutput, sealed: true}
}

// send gives the probe if it has to be sent now. Silence after the last try disproves the size.
func (d *discovery) send(now time.Time, wait time.Duration) *frame {
	if d.probe == nil || now.Before(d.due) {
		return nil
	}
	if d.tries == probeTries {
		d.disprove()
		return nil
	}
	d.tries++
	d.due = now.Add(max(wait, probeWait))
	return d.probe
}

// confirm takes in the id of an acknowledged message, and says whether it was the probe: then messages may be as large.
func (d *discovery) confirm(id UUID) bool {
	if d.probe == nil || id != d.id {
		return false
	}
	d.size = d.trying()
	d.end()
	return true
}

// disprove ends the search with what is proven.
func (d *discovery) disprove() {
	d.most = d.size
	d.end()
}

// reconnected begins anew on another connection, up to what the one before has proven or not yet tried. A probe that was under way when that one was lost
// may be what it was lost by.
func (d *discovery) reconnected() {
	if d.probe != nil {
		d.disprove()
	}
	d.size = d.first
}

func (d *discovery) end() { d.probe, d.due = nil, time.Time{} }

// nextProbe gives the probe that is to be sent now, if there is one. The caller holds mu.
func (c *Conn) nextProbe(now time.Time) *frame {
	d := &c.discovery
	if d.over() || c.state != Open || !c.paused.IsZero() || c.peer.sessionType != SessionPort || c.counts.bytesOut < discoverAfter || c.send.base == 0 {
		return nil
	}
	if d.probe == nil {
		d.begin(c.send.base-1, now)
	}
	f := d.send(now, c.send.rtt.timeout())
	if d.probe == nil {
		c.log.Debug("larger messages get no answer", "payload", d.size)
	}
	return f
}

// probeAcknowledged says whether an acknowledgement was that of a probe. The caller holds mu.
func (c *Conn) probeAcknowledged(a Ack) bool {
	if !c.discovery.confirm(a.ID) {
		return false
	}
	c.log.Debug("larger messages are answered", "payload", c.discovery.size)
	c.wake() // for the next one
	return true
}
