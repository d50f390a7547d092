package stripe

import (
	"bytes"
	"path"
	"strings"
)

// apart reports whether o and b certainly touch different things, where one of them is about a fresh file: one that was made by its OPEN.
//
// Two handles of fresh files are of different files, whatever happens to names. By name such a file is reached only under the path that made it, as long as
// no name has been moved or linked since: this takes no account of links that lead to its directory, or were there before it was.
func (o *op) apart(b *op) bool {
	switch of, bf := o.bound(), b.bound(); {
	case bf != nil:
		return o.spares(bf)
	case of != nil:
		return b.spares(of)
	case b.kind == create:
		return o.kind != modify && o.elsewhere(b.opens.path)
	case o.kind == create:
		return b.kind != modify && b.elsewhere(o.opens.path)
	}
	return false
}

// spares reports whether o certainly is about something else than f, an open file.
func (o *op) spares(f *file) bool {
	if of := o.bound(); of != nil {
		return of != f && of.fresh && f.fresh
	}
	return f.fresh && o.elsewhere(f.path)
}

// bound is the open file that a request with a handle is about, nil if it is about a name or the file is not watched.
func (o *op) bound() *file {
	if o.opens != nil {
		return nil
	}
	return o.subject()
}

// elsewhere reports whether o, a request by name, is about another file than that at fresh, or makes a directory.
func (o *op) elsewhere(fresh []byte) bool {
	return o.makes || o.path != nil && plain(o.path) && !alike(o.path, fresh)
}

// alike reports whether two paths may lead to one file that is not a link. A server may take capitals and small letters for the same.
func alike(a, b []byte) bool {
	if !bytes.EqualFold(lastOf(a), lastOf(b)) {
		return false
	}
	s, t := string(a), string(b)
	return path.IsAbs(s) != path.IsAbs(t) || path.Clean(s) != s || path.Clean(t) != t || strings.EqualFold(s, t)
}

func lastOf(path []byte) []byte { return path[bytes.LastIndexByte(path, '/')+1:] }

// plain reports whether path ends in a name.
func plain(path []byte) bool {
	last := string(lastOf(path))
	return last != "" && last != "." && last != ".."
}
