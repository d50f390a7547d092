package stripe

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
)

const (
	// maxPacket bounds a packet's length field. OpenSSH stops at 256 KiB on both sides; others go a little further.
	maxPacket = 1 << 20
	// headroom lies in front of every packet, so that a WRITE can be given a lane's handle without moving its data.
	headroom = maxHandle + 32
	// prefix is the length field, and least the shortest packet that has an id.
	prefix = 4
	least  = prefix + 1 + 4
)

// ErrPacket is a stream that is not SFTP: an empty packet, or one longer than 1 MiB.
var ErrPacket = errors.New("stripe: not an SFTP packet")

// classes are the sizes of pooled buffers: answers and requests, the 32 KiB that every client can, and the 256 KiB that OpenSSH can.
var classes = [...]int{1 << 10, 33 << 10, 257 << 10}

var pools [len(classes)]sync.Pool

// packet is one SFTP packet with its length field, counted by those who hold it: the request it belongs to and the outbox that writes it.
// It goes back to its pool with the last of them, never earlier: a server that answers before it has read would otherwise be sent somebody's next packet.
type packet struct {
	buf        []byte
	start, end int
	class      int
	holders    atomic.Int32
}

// newPacket returns a packet of n bytes, length field included, held once. Its bytes are whatever they were.
func newPacket(n int) *packet {
	class := 0
	for class < len(classes) && n > classes[class] {
		class++
	}
	var p *packet
	if class < len(classes) {
		p, _ = pools[class].Get().(*packet)
	}
	if p == nil {
		size := n
		if class < len(classes) {
			size = classes[class]
		}
		p = &packet{buf: make([]byte, headroom+size), class: class}
	}
	p.start, p.end = headroom, headroom+n
	p.holders.Store(1)
	return p
}

// made returns a packet for what an append function made.
func made(b []byte) *packet {
	p := newPacket(len(b))
	copy(p.bytes(), b)
	return p
}

func (p *packet) hold() { p.holders.Add(1) }

func (p *packet) release() {
	if p.holders.Add(-1) == 0 && p.class < len(classes) {
		pools[p.class].Put(p)
	}
}

// mine reports that nobody but the caller holds p, so that it may be changed.
func (p *packet) mine() bool { return p.holders.Load() == 1 }

func (p *packet) bytes() []byte { return p.buf[p.start:p.end] }

func (p *packet) typ() byte { return p.buf[p.start+prefix] }

// id returns the request's id; ok is false where the packet is too short for one or is of the two types that have none.
func (p *packet) id() (id uint32, ok bool) {
	if p.end-p.start < least || p.typ() == typInit || p.typ() == typVersion {
		return 0, false
	}
	return binary.BigEndian.Uint32(p.buf[p.start+prefix+1:]), true
}

func (p *packet) setID(id uint32) { binary.BigEndian.PutUint32(p.buf[p.start+prefix+1:], id) }

// body is what follows the id.
func (p *packet) body() []byte { return p.buf[p.start+least : p.end] }

// readPacket reads one packet. At the end between two packets the error is io.EOF, within one io.ErrUnexpectedEOF.
func readPacket(r *bufio.Reader) (*packet, error) {
	var length [prefix]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(length[:])
	if n == 0 || n > maxPacket {
		return nil, fmt.Errorf("%w: its length is %d", ErrPacket, n)
	}
	p := newPacket(prefix + int(n))
	copy(p.bytes(), length[:])
	if _, err := io.ReadFull(r, p.bytes()[prefix:]); err != nil {
		p.release()
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		return nil, err
	}
	return p, nil
}

// readdress turns p, a WRITE whose last n bytes are its data, into a WRITE of the same data under another id and handle.
// It returns p itself, or a copy where p is also held by somebody else. The handle has at most maxHandle bytes.
func (p *packet) readdress(id uint32, handle []byte, off uint64, n int) *packet {
	head := least + 4 + len(handle) + 8 + 4
	if !p.mine() || p.end-n-head < 0 {
		q := newPacket(head + n)
		copy(q.buf[q.end-n:], p.buf[p.end-n:p.end])
		p.release()
		p = q
	}
	p.start = p.end - n - head
	b := begin(p.buf[p.start:p.start], typWrite, id)
	b = appendString(b, handle)
	b = binary.BigEndian.AppendUint64(b, off)
	binary.BigEndian.AppendUint32(b, uint32(n))
	binary.BigEndian.PutUint32(p.buf[p.start:], uint32(head+n-prefix))
	return p
}
