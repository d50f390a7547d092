package stripe

import "bytes"

const (
	maxDirs   = 16      // directories that are being listed
	maxListed = 1 << 20 // bytes of the names that are remembered
)

// directory is one that the client is listing.
type directory struct {
	path []byte
	last string // the path of the entry before, if that is a small regular file
}

// listings remember, for the small regular files of the directories that the client has listed, which comes next. Clients that fetch a tree open the files
// of each directory in the order in which the server listed them.
type listings struct {
	open  map[string]*directory // by handle
	after map[string]string     // paths
	bytes int                   // of the names in after
}

// opened notes a directory's handle.
func (l *listings) opened(path, handle []byte) {
	if len(l.open) >= maxDirs {
		return
	}
	if l.open == nil {
		l.open = map[string]*directory{}
	}
	if l.bytes > maxListed || l.after == nil {
		l.after, l.bytes = map[string]string{}, 0
	}
	l.open[string(handle)] = &directory{path: path}
}

// listed notes the entries of an answer to READDIR; small is the size up to which a file counts as small.
func (l *listings) listed(d *directory, body []byte, small uint64) {
	c := cursor{b: body}
	for n := c.u32(); n > 0 && !c.bad && l.bytes <= maxListed; n-- {
		name := c.str()
		c.str() // as ls would show it
		a := c.attrs()
		if c.bad || bytes.Equal(name, []byte(".")) || bytes.Equal(name, []byte("..")) {
			continue
		}
		if a.flags&(attrSize|attrMode) != attrSize|attrMode || !a.regular() || a.size > small {
			d.last = ""
			continue
		}
		path := join(d.path, name)
		if d.last != "" {
			l.after[d.last] = path
			l.bytes += len(d.last) + len(path)
		}
		d.last = path
	}
}

// join makes a path as OpenSSH's clients do.
func join(dir, name []byte) string {
	if bytes.HasSuffix(dir, []byte("/")) {
		return string(dir) + string(name)
	}
	return string(dir) + "/" + string(name)
}
