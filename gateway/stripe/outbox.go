package stripe

import (
	"io"
	"sync"
)

// together is how much of small packets goes out in one write. Sixty-four READs of 30 bytes are then two messages of a data channel and not sixty-four.
const together = 4 << 10

// outbox writes packets in order in a goroutine of its own. put never waits: who fills it looks at size first.
type outbox struct {
	w    io.Writer
	wake chan struct{} // holds one

	mu     sync.Mutex
	queue  []*packet
	held   int   // bytes in queue and in the write that is on
	err    error // of the first write that failed; everything later is dropped
	closed bool
}

func newOutbox(w io.Writer) *outbox { return &outbox{w: w, wake: make(chan struct{}, 1)} }

// put takes over one hold on p.
func (o *outbox) put(p *packet) {
	o.mu.Lock()
	dropped := o.closed || o.err != nil
	if !dropped {
		o.queue = append(o.queue, p)
		o.held += len(p.bytes())
	}
	o.mu.Unlock()
	if dropped {
		p.release()
		return
	}
	o.poke()
}

// close lets run end once everything before has been written.
func (o *outbox) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.poke()
}

func (o *outbox) poke() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// size is the bytes put and not yet written.
func (o *outbox) size() int {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.held
}

// run writes until close or abandon, telling wrote after each write. After a failed write it goes on taking and dropping.
// flushed says that it was close, and that everything has been written.
func (o *outbox) run(abandon <-chan struct{}, wrote func()) (flushed bool, err error) {
	var batch, spare []*packet
	var scratch []byte
	for {
		o.mu.Lock()
		if batch = o.queue; len(batch) > 0 {
			o.queue, spare = spare, nil
		}
		over := o.closed && len(batch) == 0
		err := o.err
		o.mu.Unlock()
		if over {
			return err == nil, err
		}
		if len(batch) == 0 {
			select {
			case <-o.wake:
			case <-abandon:
				return false, err
			}
			continue
		}
		scratch = o.writeAll(batch, scratch, wrote)
		clear(batch)
		spare = batch[:0]
	}
}

// writeAll writes the packets of a batch, small ones that follow each other together in scratch.
func (o *outbox) writeAll(batch []*packet, scratch []byte, wrote func()) []byte {
	for i := 0; i < len(batch); {
		first := batch[i].bytes()
		out, n := first, 1
		if len(first) < together/2 && i+1 < len(batch) {
			scratch = append(scratch[:0], first...)
			for i+n < len(batch) && len(scratch)+len(batch[i+n].bytes()) <= together {
				scratch = append(scratch, batch[i+n].bytes()...)
				n++
			}
			out = scratch
		}
		o.write(out)
		for _, p := range batch[i : i+n] {
			p.release()
		}
		i += n
		wrote()
	}
	return scratch
}

func (o *outbox) write(b []byte) {
	o.mu.Lock()
	err := o.err
	o.mu.Unlock()
	if err == nil {
		_, err = o.w.Write(b)
	}
	o.mu.Lock()
	o.err = err
	o.held -= len(b)
	o.mu.Unlock()
}
