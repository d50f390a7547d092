package authz

import "fmt"

// Finding is one thing wrong with a configuration or a policy file, with its place, so that the caller can show file:line:col. NewDirectory and
// LoadPolicy return all findings at once, joined by errors.Join; Findings takes them apart again.
type Finding struct { //nolint:errname // the word for it: check lists findings
	Path    string // what it is about: "person[2].keys[0]" in a DirectoryConfig, the file's name in a policy
	Line    int    // 1-based within that value or file; 0: the whole of it
	Col     int    // 1-based, in bytes; 0: the whole line
	Message string // lower case, no full stop
}

// Error gives path:line:col: message, leaving out what is 0.
func (f *Finding) Error() string {
	switch {
	case f.Line == 0:
		return f.Path + ": " + f.Message
	case f.Col == 0:
		return fmt.Sprintf("%s:%d: %s", f.Path, f.Line, f.Message)
	default:
		return fmt.Sprintf("%s:%d:%d: %s", f.Path, f.Line, f.Col, f.Message)
	}
}

// Findings gives every *Finding within err, in order.
func Findings(err error) []*Finding {
	switch e := err.(type) { //nolint:errorlint // this walks the tree itself
	case nil:
		return nil
	case *Finding:
		return []*Finding{e}
	case interface{ Unwrap() []error }:
		var all []*Finding
		for _, sub := range e.Unwrap() {
			all = append(all, Findings(sub)...)
		}
		return all
	case interface{ Unwrap() error }:
		return Findings(e.Unwrap())
	}
	return nil
}
