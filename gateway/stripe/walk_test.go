package stripe

import "bytes"

// onTheWay is what may happen to the next file while a client reads those of a directory one after the other.
var onTheWay = []string{"nothing", "remove", "rename", "truncate", "write", "append", "skip", "stat"}

// walk lists a directory and reads its files in that order; before the slot-th, something happens to it.
func (s step) walk(w *wire, hear func(*packet)) {
	for i, name := range w.list("many") {
		path := "many/" + name
		if i == s.slot {
			if s.name == "skip" {
				continue
			}
			s.happens(w, path, hear)
		}
		p := w.one(func(id uint32) []byte { return newOpen(id, []byte(path), openRead) })
		h, err := parseString(p.body())
		if h = bytes.Clone(h); p.typ() != typHandle || err != nil {
			hear(p)
			continue
		}
		var off uint64
		for {
			p := w.one(readOf(h, off, 20<<10))
			got := len(p.body()) - 4
			data := p.typ() == typData
			hear(p)
			if !data {
				break
			}
			off += uint64(got)
		}
		hear(w.one(func(id uint32) []byte { return newOnHandle(typClose, id, h) }))
	}
}

func (s step) happens(w *wire, path string, hear func(*packet)) {
	change := step{verb: s.name, name: path, to: path + "-renamed", off: s.off, size: 100}
	flags := uint32(openWrite)
	switch s.name {
	case "nothing":
	case "append":
		flags |= openAppend
		fallthrough
	case "write":
		h := w.open(path, flags)
		hear(w.one(writeOf(h, 0, bytes.Repeat([]byte("w"), 100))))
		hear(w.one(func(id uint32) []byte { return newOnHandle(typClose, id, h) }))
	default:
		hear(w.one(change.requests(nil, 0)[0]))
	}
}
