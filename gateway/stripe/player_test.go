package stripe

import (
	"bytes"
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// exchange is a request of a program and what it was answered.
type exchange struct {
	typ     byte
	fsync   bool
	handle  []byte // that it is about, if it begins with one
	upload  bool   // an OPEN of the kind whose answer may be given early
	refused int    // such an OPEN that was refused: its number
	about   int    // the number of the refused OPEN whose handle, had it given one, is in this request
	answer  string // handles left out, and times
}

// done is what OpenSSH's server says when all went well.
const done = "status 0 Success <nil>"

// player runs a program as a client.
type player struct {
	*wire
	dir     string
	said    []exchange
	slots   [][]byte // handles that are open. A refused OPEN that might have been answered early has one, too, which no server knows
	refused int
	got     int // length of the last data
}

// nobodys is the handle that a player takes in place of one that it was refused.
var nobodys = regexp.MustCompile("refused-([0-9]+)!")

// hear notes an answer, and what it makes of the handles.
func (p *player) hear(request []byte, pkt *packet) {
	e := asked(request)
	switch pkt.typ() {
	case typHandle:
		h, _ := parseString(pkt.body())
		p.slots = append(p.slots, bytes.Clone(h))
		e.answer = "handle"
	case typAttrs:
		v, err := parseView(pkt.body())
		v.mtime = 0
		e.answer = fmt.Sprintf("%+v %v", v, err)
	case typStatus:
		code, text, err := parseStatus(pkt.body())
		e.answer = fmt.Sprintf("status %d %s %v", code, strings.ReplaceAll(text, p.dir, ""), err)
	case typName: // to a READLINK, which some servers make absolute
		c := cursor{b: pkt.body()}
		e.answer = fmt.Sprintf("%d names, %q", c.u32(), bytes.ReplaceAll(c.str(), []byte(p.dir), nil))
	default:
		p.got = len(pkt.body()) - 4
		e.answer = fmt.Sprintf("%d %q", pkt.typ(), pkt.body())
	}
	if e.upload && pkt.typ() == typStatus {
		p.refused++
		e.refused = p.refused
		p.slots = append(p.slots, fmt.Appendf(nil, "refused-%d!", p.refused))
	}
	if e.typ == typClose { // the server may give it again, to another file
		p.slots = slices.DeleteFunc(p.slots, func(h []byte) bool { return bytes.Equal(h, e.handle) })
	}
	p.said = append(p.said, e)
	pkt.release()
}

// asked describes a request.
func asked(request []byte) exchange {
	e := exchange{typ: request[prefix]}
	body := request[least:]
	c := cursor{b: body}
	switch e.typ {
	case typOpen:
		path, flags, _ := parseOpen(body)
		e.upload = (&opening{path: path, flags: flags, writable: createsWritable(body)}).uploading()
	case typExtended:
		e.fsync = string(c.str()) == "fsync@openssh.com"
	default:
		e.handle = bytes.Clone(c.str())
	}
	if n := nobodys.FindSubmatch(request); n != nil {
		e.about, _ = strconv.Atoi(string(n[1]))
	}
	return e
}

// do sends requests and hears their answers.
func (p *player) do(requests ...func(uint32) []byte) {
	sent := make([][]byte, len(requests))
	noted := make([]func(uint32) []byte, len(requests))
	for i, r := range requests {
		noted[i] = func(id uint32) []byte {
			sent[i] = r(id)
			return sent[i]
		}
	}
	for i, a := range p.wire.do(noted...) {
		p.hear(sent[i], a)
	}
}

// play runs the program and returns every exchange, in the order of the requests.
func (p program) play(t fatal, c *player, oneByOne bool, settle func(*wire)) []exchange {
	for _, burst := range p.bursts {
		var requests []func(uint32) []byte
		closed := map[string]bool{}
		for _, s := range burst {
			h := []byte("none")
			if s.slot < len(c.slots) {
				h = c.slots[len(c.slots)-1-s.slot]
			}
			if closed[string(h)] { // the server may have given it again
				h = []byte("none")
			}
			closed[string(h)] = s.verb == "close"
			requests = append(requests, s.requests(h, c.got)...)
		}
		if oneByOne || p.alone {
			for _, r := range requests {
				c.do(r)
			}
		} else {
			c.do(requests...)
		}
		for _, s := range burst {
			switch s.verb {
			case "settle":
				settle(c.wire)
			case "walk":
				s.walk(c)
			}
		}
	}
	return c.said
}

// promised returns what a client may hear over lanes where it heard straight from a server, given what it did hear. That differs in one case. An OPEN for an
// upload may succeed that the server refuses. Then WRITEs and FSETSTATs on its handle may succeed, until the first of them does not; that one and whatever is
// asked about the handle later is answered as the OPEN should have been, CLOSE at the latest. Extensions but fsync@ are the server's to refuse.
func promised(straight, heard []exchange) (answers []string) {
	refusals := map[int]string{}
	told := map[int]bool{}
	for i, e := range straight {
		answer := e.answer
		refusal := refusals[e.about]
		switch {
		case i >= len(heard):
		case e.refused > 0 && heard[i].answer == "handle":
			refusals[e.refused] = e.answer
			answer = "handle"
		case refusal == "" || e.typ == typExtended && !e.fsync:
		case !told[e.about] && (e.typ == typWrite || e.typ == typFsetstat) && heard[i].answer == done:
			answer = done
		default:
			answer = refusal
			told[e.about] = true
		}
		answers = append(answers, e.asked()+answer)
	}
	return answers
}

func (e exchange) asked() string { return fmt.Sprintf("to a request of type %d: ", e.typ) }

// belatedly counts the OPENs that were refused straight, and not at first over lanes.
func belatedly(straight, heard []exchange) (n int) {
	for i, e := range straight {
		if i < len(heard) && e.refused > 0 && heard[i].answer == "handle" {
			n++
		}
	}
	return n
}

func answersOf(heard []exchange) (answers []string) {
	for _, e := range heard {
		answers = append(answers, e.asked()+e.answer)
	}
	return answers
}
