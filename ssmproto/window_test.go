package ssmproto

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var epoch = time.UnixMilli(1_700_000_000_000)

func at(ms int) time.Time { return epoch.Add(time.Duration(ms) * time.Millisecond) }

// queued gives a window with n messages in it.
func queued(n int) *sendWindow {
	w := &sendWindow{limitBytes: 1 << 20}
	for range n {
		w.push(encode(PayloadOutput, w.next, []byte{byte(w.next)}), epoch)
	}
	return w
}

// flush sends all that is new, at time now.
func flush(w *sendWindow, now time.Time) {
	for f := w.fresh(); f != nil; f = w.fresh() {
		w.sent(f, now)
		w.written(f)
	}
}

// repeats sends all that has to be sent again at time now, and gives the numbers.
func repeats(w *sendWindow, now time.Time) []int64 {
	var seqs []int64
	for f := w.lost(now); f != nil; f = w.lost(now) {
		seqs = append(seqs, f.seq)
		w.sent(f, now)
		w.written(f)
	}
	return seqs
}

func equal(t *testing.T, what string, got, want any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(want); g != w {
		t.Errorf("%s: %s, want %s", what, g, w)
	}
}

func TestAllDueMessagesAreRepeated(t *testing.T) {
	w := queued(5)
	flush(w, at(0))
	w.ack(1, at(10))
	w.ack(3, at(11))
	equal(t, "before the time", repeats(w, at(12)), "[]")
	equal(t, "due", repeats(w, at(500)), "[0 2 4]")
	equal(t, "again at once", repeats(w, at(501)), "[]")
	equal(t, "resends", w.resends, 3)
}

// TestOvertakenMessagesAreRepeatedEarly: when later messages are acknowledged, waiting for the timeout is waiting in vain.
func TestOvertakenMessagesAreRepeatedEarly(t *testing.T) {
	w := queued(1)
	flush(w, at(0))
	w.ack(0, at(50)) // 50 ms round trip, settled: the timeout is 200 ms
	for range 3 {
		w.push(encode(PayloadOutput, w.next, []byte("x")), at(60))
	}
	for i, f := 0, w.fresh(); f != nil; i, f = i+1, w.fresh() {
		w.sent(f, at(60+i))
		w.written(f)
	}
	if w.gap() {
		t.Error("a gap before anything was acknowledged")
	}
	w.ack(3, at(112))
	if !w.gap() {
		t.Error("no gap though a later message was acknowledged")
	}
	equal(t, "within the round trip", repeats(w, at(115)), "[]")
	equal(t, "a little after", repeats(w, at(124)), "[1 2]")
}

func TestBackOffAndItsEnd(t *testing.T) {
	w := queued(1)
	flush(w, at(0))
	w.ack(0, at(100))
	w.push(encode(PayloadOutput, 1, []byte("x")), at(100))
	flush(w, at(100))
	var waits []time.Duration
	last := at(100)
	for range 7 {
		due, ok := w.due()
		if !ok {
			t.Fatal("nothing is due")
		}
		waits = append(waits, due.Sub(last))
		last = due
		equal(t, "repeated", repeats(w, due), "[1]")
	}
	equal(t, "waits", waits, "[300ms 600ms 1.2s 2.4s 4s 4s 4s]")
	before := w.rtt
	w.ack(1, last.Add(time.Millisecond))
	if w.rtt.smoothed != before.smoothed {
		t.Error("an acknowledgement of a repeated message was measured (Karn)")
	}
	w.push(encode(PayloadOutput, 2, []byte("x")), last)
	flush(w, last)
	w.ack(2, last.Add(100*time.Millisecond))
	if w.rtt.timeout() > time.Second {
		t.Errorf("timeout %v after a fresh measurement", w.rtt.timeout())
	}
}

func TestStartIsQuick(t *testing.T) {
	var r roundTrip
	equal(t, "before any measurement", r.timeout(), "100ms")
	r.sample(time.Millisecond, epoch)
	equal(t, "before data was acknowledged", r.timeout(), "20ms")
	r.settled = true
	equal(t, "afterwards", r.timeout(), "200ms")
}

func TestShortestRoundTripForgets(t *testing.T) {
	var r roundTrip
	r.sample(10*time.Millisecond, at(0))
	r.sample(90*time.Millisecond, at(5_000))
	equal(t, "shortest", r.shortest, "10ms")
	r.sample(90*time.Millisecond, at(11_000))
	r.sample(90*time.Millisecond, at(22_000))
	r.sample(90*time.Millisecond, at(33_000))
	equal(t, "after the path has changed", r.shortest, "90ms")
}

func TestReconnectionMakesAllDue(t *testing.T) {
	w := queued(4)
	flush(w, at(0))
	w.ack(2, at(5))
	w.reconnected(at(6), 0)
	equal(t, "due", repeats(w, at(6)), "[0 1 3]")
	equal(t, "only once", repeats(w, at(7)), "[]")
	equal(t, "no back-off", w.rtt.backoff, 0)
}

// TestAckDuringWrite keeps the frame alive while the writer holds it.
func TestAckDuringWrite(t *testing.T) {
	w := queued(1)
	f := w.fresh()
	w.sent(f, at(0))
	if !w.ack(0, at(1)) {
		t.Fatal("an acknowledgement before the end of the write was not accepted")
	}
	if len(f.buf) == 0 {
		t.Fatal("the frame was released under the writer's hands")
	}
	w.written(f)
	if !w.empty() || w.bytes != 0 || w.payload != 0 {
		t.Errorf("left over: %d bytes", w.bytes)
	}
}

func TestAcksOfNothing(t *testing.T) {
	w := queued(3)
	w.sent(w.fresh(), at(0))
	for _, seq := range []int64{-1, 1, 2, 3, 1 << 62} {
		if w.ack(seq, at(1)) {
			t.Errorf("an acknowledgement of %d was accepted", seq)
		}
	}
	if !w.ack(0, at(1)) || w.ack(0, at(1)) {
		t.Error("acknowledged not exactly once")
	}
}

func TestWindowIsBounded(t *testing.T) {
	w := &sendWindow{limitBytes: 10 * smallFrame}
	for !w.full() {
		w.push(encode(PayloadOutput, w.next, []byte("x")), epoch)
	}
	if w.next < 9 || w.next > 11 {
		t.Errorf("full with %d small messages in the memory of 10", w.next)
	}
	w = &sendWindow{limitBytes: 1 << 30, rate: 900}
	fill := func(send bool) {
		for !w.full() {
			w.push(encode(PayloadOutput, w.next, []byte("x")), epoch)
			if send {
				w.sent(w.fresh(), epoch)
			}
		}
	}
	fill(false)
	equal(t, "messages that wait for their turn", w.next, maxUnsent)
	flush(w, epoch)
	fill(true)
	equal(t, "messages without a measurement", w.next, leastWindow)
	w.rtt.sample(100*time.Millisecond, epoch)
	fill(true)
	equal(t, "messages at 100 ms", w.next, maxUnsent+900*(2*100+40+8)/1000)
}

// TestSendWindowLaws plays random sends, losses and acknowledgements against a plain model.
func TestSendWindowLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := &sendWindow{limitBytes: 1 << 30}
		open := map[int64]bool{} // not acknowledged
		now := epoch
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(0, 300).Draw(t, "ms")) * time.Millisecond)
			switch rapid.IntRange(0, 4).Draw(t, "step") {
			case 0, 1:
				open[w.next] = true
				w.push(encode(PayloadOutput, w.next, []byte("x")), now)
			case 2:
				flush(w, now)
			case 3:
				repeats(w, now)
			case 4:
				seq := rapid.Int64Range(-1, w.next+1).Draw(t, "ack")
				if got, want := w.ack(seq, now), open[seq] && seq < w.unsent; got != want {
					t.Fatalf("ack %d: %v, want %v", seq, got, want)
				} else if got {
					delete(open, seq)
				}
			}
			checkSendWindow(t, w, open)
		}
		for seq := range open {
			flush(w, now)
			w.ack(seq, now)
		}
		if !w.empty() || w.bytes != 0 || w.oldest != nil || w.newest != nil {
			t.Fatal("not empty after everything was acknowledged")
		}
	})
}

func checkSendWindow(t *rapid.T, w *sendWindow, open map[int64]bool) {
	bytes := 0
	for seq := range open {
		f := w.ring[w.slot(seq)]
		if f == nil || f.seq != seq {
			t.Fatalf("message %d is lost", seq)
		}
		bytes += cap(f.buf)
	}
	if bytes != w.bytes || w.empty() != (len(open) == 0) {
		t.Fatalf("%d bytes, want %d", w.bytes, bytes)
	}
	sent := 0
	for f := w.oldest; f != nil; f = f.newer {
		if f.newer != nil && f.newer.sentAt.Before(f.sentAt) {
			t.Fatal("not in the order of sending")
		}
		sent++
	}
	for seq := range open {
		if seq < w.unsent {
			sent--
		}
	}
	if sent != 0 {
		t.Fatalf("%d too many in the order of sending", sent)
	}
}

func received(seq int64) *frame {
	f := newFrame(0)
	f.seq = seq
	return f
}

// TestReceiveWindowLaws: whatever comes, each message is delivered once and in order, and refused only beyond the bounds.
func TestReceiveWindowLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := recvWindow{limitBytes: 1 << 30}
		have := map[int64]bool{}
		delivered := int64(0)
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			seq := delivered + rapid.Int64Range(-3, 20).Draw(t, "ahead")
			want := accepted
			if seq < 0 {
				want = refused
			} else if seq < delivered || have[seq] {
				want = duplicate
			}
			if got := w.offer(received(seq)); got != want {
				t.Fatalf("message %d: verdict %d, want %d", seq, got, want)
			}
			if want == accepted {
				have[seq] = true
			}
			for f := w.pop(); f != nil; f = w.pop() {
				if f.seq != delivered || !have[f.seq] {
					t.Fatalf("delivered %d instead of %d", f.seq, delivered)
				}
				delete(have, delivered)
				delivered++
			}
			if have[delivered] {
				t.Fatalf("message %d was not delivered", delivered)
			}
		}
	})
}

func TestReceiveWindowIsBounded(t *testing.T) {
	w := recvWindow{limitBytes: 3 * smallFrame}
	for seq := int64(1); seq <= 3; seq++ {
		equal(t, "ahead", w.offer(received(seq)), accepted)
	}
	equal(t, "too much memory ahead", w.offer(received(4)), refused)
	equal(t, "the missing one", w.offer(received(0)), accepted)
	w = recvWindow{limitBytes: 1 << 30}
	equal(t, "the last that fits", w.offer(received(maxAhead-1)), accepted)
	for _, seq := range []int64{maxAhead, 1 << 40, 1<<63 - 1, -1, -1 << 63} {
		equal(t, fmt.Sprint("message ", seq), w.offer(received(seq)), refused)
	}
	if len(w.ring) > maxAhead {
		t.Errorf("%d slots", len(w.ring))
	}
}

func FuzzReassembly(f *testing.F) {
	f.Add([]byte{0, 1, 2, 3})
	f.Add([]byte{3, 2, 1, 0, 0, 255})
	f.Fuzz(func(t *testing.T, order []byte) {
		w := recvWindow{limitBytes: 64 * smallFrame}
		next := int64(0)
		for _, b := range order {
			seq := next + int64(int8(b))
			if m := received(seq); w.offer(m) != accepted {
				m.release()
			}
			for m := w.pop(); m != nil; m = w.pop() {
				if m.seq != next {
					t.Fatalf("delivered %d instead of %d", m.seq, next)
				}
				next++
				m.release()
			}
			if w.bytes > w.limitBytes || w.bytes < 0 {
				t.Fatalf("%d bytes held", w.bytes)
			}
		}
	})
}

func TestPacer(t *testing.T) {
	p := newPacer(1000, 10)
	count := func(now time.Time) (n int) {
		for p.wait(now) == 0 {
			p.spend(now)
			n++
		}
		return n
	}
	equal(t, "at once", count(at(0)), 10)
	equal(t, "wait", p.wait(at(0)), "1ms")
	equal(t, "after 5 ms", count(at(5)), 5)
	equal(t, "after a long pause", count(at(60_000)), 10)
	unpaced := newPacer(0, 10)
	for range 10_000 {
		unpaced.spend(at(0))
	}
	equal(t, "unpaced", unpaced.wait(at(0)), "0s")
}

func TestAckQueue(t *testing.T) {
	var q ackQueue
	pushed, popped := int64(0), int64(0)
	for round := range 200 {
		for range round % 13 {
			if q.push(Ack{SequenceNumber: pushed}) {
				pushed++
			}
		}
		for range round % 7 {
			if !q.empty() {
				equal(t, "order", q.pop().SequenceNumber, popped)
				popped++
			}
		}
	}
	for q.push(Ack{SequenceNumber: pushed}) {
		pushed++
	}
	equal(t, "held when full", pushed-popped, maxAcks)
}

func TestStates(t *testing.T) {
	for from := Connecting; from <= Closed; from++ {
		if mayEnter(from, from) || mayEnter(from, Connecting) {
			t.Errorf("%v leads back", from)
		}
		if mayEnter(from, Closed) != (from != Closed) {
			t.Errorf("%v to closed: %v", from, mayEnter(from, Closed))
		}
		if mayEnter(Closed, from) || (from != Closed && mayEnter(Draining, from)) {
			t.Errorf("back to %v from the end", from)
		}
	}
	for _, arrow := range [][2]State{{Open, Resuming}, {Resuming, Open}, {Handshaking, Resuming}, {Resuming, Handshaking}, {Resuming, Draining}} {
		if !mayEnter(arrow[0], arrow[1]) {
			t.Errorf("no way from %v to %v", arrow[0], arrow[1])
		}
	}
}

// TestWindowsDoNotAllocate: a message's way through the windows costs no memory once its frame exists.
func TestWindowsDoNotAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes sync.Pool forget on purpose")
	}
	w := &sendWindow{limitBytes: 1 << 20}
	r := recvWindow{limitBytes: 1 << 20}
	var acks ackQueue
	payload, now, seq := make([]byte, 1024), epoch, int64(0)
	buf := make([]byte, 0, 512)
	once := func() {
		f := encode(PayloadOutput, w.next, payload)
		w.push(f, now)
		w.join(payload[:8], 1032)
		w.sent(f, now)
		f.seal()
		w.written(f)
		in := newFrame(smallFrame)
		in.seq = seq
		r.offer(in)
		acks.push(Ack{Type: OutputStreamData, SequenceNumber: seq})
		buf = appendAcknowledge(buf[:0], acks.pop(), now)
		m, err := Parse(buf)
		if err != nil {
			t.Fatal(err)
		}
		if a, err := ParseAck(m.Payload); err != nil || !w.ack(a.SequenceNumber, now) {
			t.Fatal("not acknowledged", err)
		}
		r.pop().release()
		seq++
	}
	once()
	if allocs := testing.AllocsPerRun(1000, once); allocs != 0 {
		t.Errorf("%v allocations per message", allocs)
	}
	c := newConn(Grant{}, (*Options)(nil).resolved())
	if allocs := testing.AllocsPerRun(1000, func() { c.settle(epoch); _ = c.Stats() }); allocs != 0 {
		t.Errorf("%v allocations to tell news and to look", allocs)
	}
}
