package ssmproto

import (
	"bytes"
	"net"
	"slices"
	"testing"
)

// sizedConn notes what is written, and in which sizes.
type sizedConn struct {
	net.Conn
	sizes []int
	text  []byte
}

// Write implements net.Conn.
func (c *sizedConn) Write(p []byte) (int, error) {
	c.sizes = append(c.sizes, len(p))
	c.text = append(c.text, p...)
	return len(p), nil
}

// TestCoalescing looks at the writes that a held batch becomes: small messages share one, and a message of which two would not fit is not copied first.
func TestCoalescing(t *testing.T) {
	const small, half, large = 1 << 10, coalesceLimit / 2, coalesceLimit/2 + 1
	for name, batch := range map[string]struct{ messages, writes []int }{
		"small messages share a write":    {[]int{small, small, small}, []int{3 * small}},
		"two halves fit":                  {[]int{half, half}, []int{2 * half}},
		"what does not fit begins anew":   {[]int{half, small, half}, []int{half + small, half}},
		"a large one is not copied":       {[]int{large, large}, []int{large, large}},
		"what is held goes before it":     {[]int{small, large, small}, []int{small, large, small}},
		"one larger than all that fits":   {[]int{small, 2 * coalesceLimit}, []int{small, 2 * coalesceLimit}},
		"nothing was written in the hold": {nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			under := &sizedConn{}
			c := &coalescer{Conn: under}
			var text []byte
			c.hold()
			for n, size := range batch.messages {
				message := bytes.Repeat([]byte{byte(n)}, size)
				text = append(text, message...)
				if written, err := c.Write(message); written != size || err != nil {
					t.Fatalf("Write of %d bytes gave %d, %v", size, written, err)
				}
			}
			if err := c.flush(); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(under.sizes, batch.writes) {
				t.Errorf("%v became writes of %v, not %v", batch.messages, under.sizes, batch.writes)
			}
			if !bytes.Equal(under.text, text) {
				t.Error("the bytes arrived in another order")
			}
		})
	}
}
