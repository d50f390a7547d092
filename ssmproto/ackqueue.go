package ssmproto

// maxAcks bounds the acknowledgements that wait to be sent. One that finds no room is left out: the message comes again.
const maxAcks = 1024

// ackQueue is the acknowledgements that wait to be sent, first in, first out.
type ackQueue struct {
	ring       []Ack // by index & (len-1)
	head, tail uint
}

// len is how many wait.
func (q *ackQueue) len() int { return int(q.tail - q.head) }

func (q *ackQueue) empty() bool { return q.head == q.tail }

func (q *ackQueue) push(a Ack) bool {
	held := q.tail - q.head
	if held == maxAcks {
		return false
	}
	if held == uint(len(q.ring)) {
		ring := make([]Ack, max(8, 2*len(q.ring)))
		for i := range held {
			ring[i] = q.ring[(q.head+i)&uint(len(q.ring)-1)]
		}
		q.ring, q.head, q.tail = ring, 0, held
	}
	q.ring[q.tail&uint(len(q.ring)-1)] = a
	q.tail++
	return true
}

// pop takes the first one out of a queue that is not empty.
func (q *ackQueue) pop() Ack {
	a := q.ring[q.head&uint(len(q.ring)-1)]
	q.head++
	return a
}
