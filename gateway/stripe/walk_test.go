package stripe

import (
	"bytes"
	"strings"
)

// onTheWay is what may happen to the next file while a client reads those of a directory one after the other.
var onTheWay = []string{"nothing", "remove", "rename", "truncate", "write", "append", "skip", "stat"}

// walk lists a directory and reads its files in that order; before the slot-th, something happens to it.
func (s step) walk(c *player) {
	for i, name := range c.list("many") {
		path := "many/" + name
		if i == s.slot {
			if s.name == "skip" {
				continue
			}
			s.happens(c, path)
		}
		open := func(id uint32) []byte { return newOpen(id, []byte(path), openRead) }
		p := c.one(open)
		h, err := parseString(p.body())
		if h = bytes.Clone(h); p.typ() != typHandle || err != nil {
			c.hear(open(0), p)
			continue
		}
		for off, data := 0, true; data; off += c.got {
			c.do(readOf(h, uint64(off), 20<<10))
			data = !strings.HasPrefix(c.said[len(c.said)-1].answer, "status")
		}
		c.do(func(id uint32) []byte { return newOnHandle(typClose, id, h) })
	}
}

func (s step) happens(c *player, path string) {
	change := step{verb: s.name, name: path, to: path + "-renamed", off: s.off, size: 100}
	flags := uint32(openWrite)
	switch s.name {
	case "nothing":
	case "append":
		flags |= openAppend
		fallthrough
	case "write":
		h := c.open(path, flags)
		c.do(writeOf(h, 0, bytes.Repeat([]byte("w"), 100)))
		c.do(func(id uint32) []byte { return newOnHandle(typClose, id, h) })
	default:
		c.do(change.requests(nil, 0)...)
	}
}
