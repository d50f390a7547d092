package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// finding is something wrong with a configuration or a file it names, with the place where it stands.
type finding struct {
	File    string
	Line    int    // 1-based; 0 when the whole file is meant
	Col     int    // 1-based
	Path    string // key path in the configuration, may be empty
	Message string
}

// String is file:line:col: path: message, as compilers write it, so that editors can jump there.
func (f finding) String() string {
	var b strings.Builder
	b.WriteString(f.File)
	if f.Line > 0 {
		fmt.Fprintf(&b, ":%d:%d", f.Line, f.Col)
	}
	if f.Path != "" {
		b.WriteString(": " + f.Path)
	}
	b.WriteString(": " + f.Message)
	return b.String()
}

// positions maps key paths (person[2].keys[0]) to where they stand in a TOML text. go-toml reports positions of syntax and type errors itself;
// this is for what is wrong with a value that decoded well.
type positions map[string]unstable.Position

// find gives the position of path, or of the nearest thing around it.
func (p positions) find(path string) unstable.Position {
	for path != "" {
		if where, ok := p[path]; ok {
			return where
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			break
		}
		path = path[:cut]
	}
	return unstable.Position{}
}

// locate walks a TOML text. A text with a syntax error gives the positions up to it.
func locate(text []byte) positions {
	found := positions{}
	arrays := map[string]int{} // how many [[tables]] of a name have been seen
	parser := &unstable.Parser{}
	parser.Reset(text)
	prefix := ""
	for parser.NextExpression() {
		node := parser.Expression()
		switch node.Kind {
		case unstable.Table:
			prefix = joinKey(parser, node, "", found)
		case unstable.ArrayTable:
			name := joinKey(parser, node, "", found)
			prefix = fmt.Sprintf("%s[%d]", name, arrays[name])
			arrays[name]++
			found[prefix] = found[name]
		case unstable.KeyValue:
			recordValue(parser, joinKey(parser, node, prefix, found), node.Value(), found)
		default:
		}
	}
	return found
}

// joinKey appends the dotted key of node to prefix and records where each part stands.
func joinKey(parser *unstable.Parser, node *unstable.Node, prefix string, found positions) string {
	path := prefix
	for key := node.Key(); key.Next(); {
		part := key.Node()
		if path != "" {
			path += "."
		}
		path += string(part.Data)
		found[path] = parser.Shape(part.Raw).Start
	}
	return path
}

// recordValue descends into arrays and inline tables.
func recordValue(parser *unstable.Parser, path string, value *unstable.Node, found positions) {
	switch value.Kind {
	case unstable.Array:
		index := 0
		for child := value.Children(); child.Next(); {
			item := child.Node()
			if item.Kind == unstable.Comment {
				continue
			}
			itemPath := fmt.Sprintf("%s[%d]", path, index)
			if item.Raw.Length > 0 {
				found[itemPath] = parser.Shape(item.Raw).Start
			}
			recordValue(parser, itemPath, item, found)
			index++
		}
	case unstable.InlineTable:
		for child := value.Children(); child.Next(); {
			recordValue(parser, joinKey(parser, child.Node(), path, found), child.Node().Value(), found)
		}
	default:
	}
}

func keyPath(key toml.Key) string { return strings.Join(key, ".") }

// goType is how go-toml names what it could not fill: `cannot decode TOML string into struct field main.fileConfig.Listen of type []string`.
var goType = regexp.MustCompile(`^cannot decode TOML (.+) into .* of type (.+)$`)

// tomlTypes says what to write for a type of the configuration.
var tomlTypes = map[string]string{
	"[]string": `a list of strings, as in ["a", "b"]`, "[]int": "a list of numbers, as in [22, 2022]", "string": "a string in quotes", "int": "a number without quotes",
	"float64": "a number without quotes", "bool": "true or false without quotes", "map[string]string": `a table of strings, as in { a = "b" }`,
}

// inTOMLWords words a wrong type for people who write TOML and not Go.
func inTOMLWords(message string) string {
	parts := goType.FindStringSubmatch(message)
	if parts == nil {
		return message
	}
	wanted, known := tomlTypes[parts[2]]
	if !known {
		wanted = "a table"
	}
	return "this key wants " + wanted + ", and the value is of type " + parts[1]
}

func trimTOML(message string) string { return strings.TrimPrefix(message, "toml: ") }
