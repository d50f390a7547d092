package stripe

import (
	"encoding/binary"
	"errors"
)

// Message types of SFTP version 3 (draft-ietf-secsh-filexfer-02, section 3).
const (
	typInit     = 1
	typVersion  = 2
	typOpen     = 3
	typClose    = 4
	typRead     = 5
	typWrite    = 6
	typLstat    = 7
	typFstat    = 8
	typSetstat  = 9
	typFsetstat = 10
	typOpendir  = 11
	typReaddir  = 12
	typRemove   = 13
	typMkdir    = 14
	typRmdir    = 15
	typRealpath = 16
	typStat     = 17
	typRename   = 18
	typReadlink = 19
	typSymlink  = 20
	typStatus   = 101
	typHandle   = 102
	typData     = 103
	typName     = 104
	typAttrs    = 105
	typExtended = 200
)

// Flags of an OPEN (section 6.3).
const (
	openRead   = 0x01
	openWrite  = 0x02
	openAppend = 0x04
	openCreate = 0x08
	openTrunc  = 0x10
	openExcl   = 0x20
	openKnown  = openRead | openWrite | openAppend | openCreate | openTrunc | openExcl
)

// Codes of a STATUS (section 7).
const (
	statusOK      = 0
	statusEOF     = 1
	statusFailure = 4
)

// Flags of an ATTRS (section 5).
const (
	attrSize     = 0x01
	attrOwner    = 0x02
	attrMode     = 0x04
	attrTimes    = 0x08
	attrExtended = 0x80000000
	modeType     = 0o170000
	modeRegular  = 0o100000
)

// The version this package understands; any other is carried, never striped.
const version3 = 3

// maxHandle is the longest handle the protocol allows (section 6.2).
const maxHandle = 256

var errShort = errors.New("stripe: the SFTP packet ends before its fields do")

// cursor takes fields off the front of a packet's body. After a field that is not there, bad is set and everything else is zero.
type cursor struct {
	b   []byte
	bad bool
}

func (c *cursor) take(n uint64) []byte {
	if c.bad || n > uint64(len(c.b)) {
		c.bad = true
		return nil
	}
	field := c.b[:n:n]
	c.b = c.b[n:]
	return field
}

func (c *cursor) u32() uint32 {
	if b := c.take(4); b != nil {
		return binary.BigEndian.Uint32(b)
	}
	return 0
}

func (c *cursor) u64() uint64 {
	if b := c.take(8); b != nil {
		return binary.BigEndian.Uint64(b)
	}
	return 0
}

// str returns a string field as a part of the packet.
func (c *cursor) str() []byte { return c.take(uint64(c.u32())) }

// whole reports whether all fields were there and nothing follows them.
func (c *cursor) whole() bool { return !c.bad && len(c.b) == 0 }

// access is a READ or a WRITE: a handle and a range. A WRITE's data is a part of the packet.
type access struct {
	handle []byte
	off    uint64
	n      uint32
	data   []byte
}

// parseAccess reads the body (what follows the id) of a READ or a WRITE. A range that passes the end of 64 bits is refused. What follows the fields is not: servers
// pass over it, and Go's library (that of rclone 1.60, say) sends what else is in its buffer behind the data of a WRITE that does not fill it.
func parseAccess(typ byte, body []byte) (access, error) {
	c := cursor{b: body}
	a := access{handle: c.str(), off: c.u64(), n: c.u32()}
	if typ == typWrite {
		a.data = c.take(uint64(a.n))
	}
	if c.bad || a.off+uint64(a.n) < a.off {
		return access{}, errShort
	}
	return a, nil
}

// trim cuts off what follows the data of p, a WRITE of n bytes under a handle of so many.
func (p *packet) trim(handle, n int) {
	p.end = p.start + least + 4 + handle + 8 + 4 + n
	finish(p.bytes())
}

// parseOpen reads the body of an OPEN: path and flags. The attributes that follow are the server's business.
func parseOpen(body []byte) (path []byte, flags uint32, err error) {
	c := cursor{b: body}
	path, flags = c.str(), c.u32()
	if c.bad {
		return nil, 0, errShort
	}
	return path, flags, nil
}

// createsWritable reports whether the owner of a file that the OPEN with this body makes may write it. Without a mode a server makes it so.
func createsWritable(body []byte) bool {
	c := cursor{b: body}
	c.str()
	c.u32()
	v := c.attrs()
	return !c.bad && (v.flags&attrMode == 0 || v.mode&0o200 != 0)
}

// parseFsetstat reads handle and size from the body of an FSETSTAT. alone is false if it does not set the size and nothing else.
func parseFsetstat(body []byte) (handle []byte, size uint64, alone bool) {
	c := cursor{b: body}
	handle = c.str()
	alone = c.u32() == attrSize
	if alone {
		size = c.u64()
	}
	return handle, size, alone && c.whole()
}

// firstString returns the string with which a body begins, be there more or not; nil if there is none.
func firstString(body []byte) []byte { return (&cursor{b: body}).str() }

// parseString reads a body that is one string: a handle or a path.
func parseString(body []byte) ([]byte, error) {
	c := cursor{b: body}
	if s := c.str(); c.whole() {
		return s, nil
	}
	return nil, errShort
}

// parseHandle returns the handle in an answer to an OPEN, a part of the packet; ok is false if it is no handle, or one longer than the protocol allows.
func parseHandle(pkt *packet) (handle []byte, ok bool) {
	handle, err := parseString(pkt.body())
	return handle, pkt.typ() == typHandle && err == nil && len(handle) <= maxHandle
}

// parseStatus reads the body of a STATUS. Some servers leave out the text.
func parseStatus(body []byte) (code uint32, text string, err error) {
	c := cursor{b: body}
	code = c.u32()
	if c.bad {
		return 0, "", errShort
	}
	return code, string(c.str()), nil
}

// view is what a lane sees of an open file: everything an ATTRS tells but the time of access, which reading changes.
type view struct {
	flags    uint32
	size     uint64
	uid, gid uint32
	mode     uint32
	mtime    uint32
}

// attrs reads an ATTRS. What it does not tell is zero.
func (c *cursor) attrs() view {
	v := view{flags: c.u32()}
	if v.flags&attrSize != 0 {
		v.size = c.u64()
	}
	if v.flags&attrOwner != 0 {
		v.uid, v.gid = c.u32(), c.u32()
	}
	if v.flags&attrMode != 0 {
		v.mode = c.u32()
	}
	if v.flags&attrTimes != 0 {
		c.u32()
		v.mtime = c.u32()
	}
	if v.flags&attrExtended != 0 {
		for n := c.u32(); n > 0 && !c.bad; n-- {
			c.str()
			c.str()
		}
	}
	return v
}

// parseView reads the body of an ATTRS, which for a view must tell size, owner, mode and times.
func parseView(body []byte) (view, error) {
	c := cursor{b: body}
	v := c.attrs()
	if v.flags&(attrSize|attrOwner|attrMode|attrTimes) != attrSize|attrOwner|attrMode|attrTimes {
		return view{}, errors.New("stripe: the server does not tell size, owner, mode and times of an open file")
	}
	if c.bad {
		return view{}, errShort
	}
	return v, nil
}

func (v view) regular() bool { return v.mode&modeType == modeRegular }

// setsSize reports whether a SETSTAT or FSETSTAT may change the size of a file; one that cannot be read may.
func setsSize(body []byte) bool {
	c := cursor{b: body}
	c.str()
	flags := c.u32()
	return c.bad || flags&attrSize != 0
}

func appendString(b, s []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(s)))
	return append(b, s...)
}

// begin starts a packet in b: a length that finish fills in, type and id.
func begin(b []byte, typ byte, id uint32) []byte {
	return binary.BigEndian.AppendUint32(append(b, 0, 0, 0, 0, typ), id)
}

// finish writes the length of the one packet that b holds.
func finish(b []byte) []byte {
	binary.BigEndian.PutUint32(b, uint32(len(b)-4))
	return b
}

func newInit() []byte {
	return finish(binary.BigEndian.AppendUint32(append([]byte(nil), 0, 0, 0, 0, typInit), version3))
}

// newOpen makes an OPEN without attributes: it can neither create a file nor change one, as flags is openRead or openWrite alone.
func newOpen(id uint32, path []byte, flags uint32) []byte {
	b := appendString(begin(nil, typOpen, id), path)
	b = binary.BigEndian.AppendUint32(b, flags)
	return finish(binary.BigEndian.AppendUint32(b, 0))
}

// newNamed makes a STAT or a REALPATH.
func newNamed(typ byte, id uint32, path []byte) []byte {
	return finish(appendString(begin(nil, typ, id), path))
}

// newOnHandle makes a CLOSE or an FSTAT.
func newOnHandle(typ byte, id uint32, handle []byte) []byte {
	return finish(appendString(begin(nil, typ, id), handle))
}

func appendRead(b []byte, id uint32, handle []byte, off uint64, n uint32) []byte {
	b = appendString(begin(b, typRead, id), handle)
	b = binary.BigEndian.AppendUint64(b, off)
	return finish(binary.BigEndian.AppendUint32(b, n))
}

// newTruncate makes an FSETSTAT that sets the size and nothing else.
func newTruncate(id uint32, handle []byte, size uint64) []byte {
	b := appendString(begin(nil, typFsetstat, id), handle)
	b = binary.BigEndian.AppendUint32(b, attrSize)
	return finish(binary.BigEndian.AppendUint64(b, size))
}

func newStatus(id, code uint32, text string) []byte {
	b := binary.BigEndian.AppendUint32(begin(nil, typStatus, id), code)
	b = appendString(b, []byte(text))
	return finish(appendString(b, nil))
}
