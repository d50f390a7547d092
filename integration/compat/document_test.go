package compat

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const documentPath = "../../docs/compatibility.md"

const documentIntro = `# Compatibility

Written by ` + "`make compat`" + ` from what happened; do not edit: a test compares it with the suite. Every row went through the gateway's binary to a machine behind the emulated
Session Manager, where port 22 is the system's own sshd or, in the columns "embedded", the SSH server of package integration/instance. No network's delay is imitated.

"Scenarios" compares standard output, standard error, exit status and the files left behind with a plain connection to the same sshd, on the ways jump (` + "`ssh -J`" + `), direct
(` + "`user@i-…@gateway`" + `), connect (a ProxyCommand without a server) and passthrough (a jump whose bytes are not looked into); "warm" is each scenario twice in a row through a gateway that
keeps sessions for the next connection, as it does by default. Time is the class of what a scenario takes on the plain connection beyond its logins; a way
on which it takes five times that and ten seconds more, and again whenever both are repeated side by side, is told as slow. "OpenSSH's own tests" are the regression scripts of
the version below, unchanged. What is not run has its reason beside it. Script is the beginning of the SHA-256 of the file in integration/compat/testdata, commit the gateway's.

`

// sectionNotes stand below a section's heading.
var sectionNotes = map[string]string{
	"Editors, screens, terminals": `Only ` + "`make compat`" + ` runs these, since what they need is 300 MB to fetch and takes minutes. The picture is from such a run: VS Code's server on the machine, in
Chromium at the client, with the gateway in between.

![a file that was edited and saved, and a terminal](code-server.png)

`,
}

// sectionOrder is that of the document; sections that are not in it follow.
var sectionOrder = []string{"Scenarios", "Clients", "Editors, screens, terminals", "Pressure", "OpenSSH's own tests"}

// wayOrder is all ways, in the order of their columns; those through a gateway that keeps sessions warm follow.
var wayOrder = []route{jump, direct, connect, passthrough, jump.embedded(), direct.embedded()}

// warmWays are those on which a session can be left for the next connection: connect has no gateway to keep it, and of passthrough nothing is kept.
var warmWays = []route{jump, direct, jump.embedded(), direct.embedded()}

// wayColumns are the heads of the columns.
func wayColumns() []string {
	var heads []string
	for _, r := range wayOrder {
		heads = append(heads, string(r))
	}
	for _, r := range warmWays {
		heads = append(heads, string(r)+warmSuffix)
	}
	return heads
}

// document gives the text for all rows.
func document(rows []*tableRow) []byte {
	var text bytes.Buffer
	text.WriteString(documentIntro)
	fmt.Fprintf(&text, "System: %s\n\n", system())
	rows = slices.Clone(rows)
	slices.SortFunc(rows, func(a, b *tableRow) int {
		return cmp.Or(cmp.Compare(sectionRank(a.section), sectionRank(b.section)), cmp.Compare(a.section, b.section), cmp.Compare(a.name, b.name))
	})
	for i := 0; i < len(rows); {
		end := i
		for end < len(rows) && rows[end].section == rows[i].section {
			end++
		}
		writeSection(&text, rows[i:end])
		i = end
	}
	fmt.Fprintf(&text, "%s\n", sumOf(rows))
	return text.Bytes()
}

func sectionRank(section string) int {
	if at := slices.Index(sectionOrder, section); at >= 0 {
		return at
	}
	return len(sectionOrder)
}

// column is one of a section's: its head and where a row has it.
type column struct {
	head  string
	field func(*tableRow) *string
}

// columns are all that a section may have. Those that are empty in every row are left out.
func columns() []column {
	return []column{
		{"what", func(r *tableRow) *string { return &r.name }},
		{"client", func(r *tableRow) *string { return &r.client }},
		{"about", func(r *tableRow) *string { return &r.about }},
		{"time", func(r *tableRow) *string { return &r.time }},
		{"result", func(r *tableRow) *string { return &r.result }},
		{"script", func(r *tableRow) *string { return &r.script }},
		{"commit", func(r *tableRow) *string { return &r.commit }},
	}
}

func writeSection(text *bytes.Buffer, rows []*tableRow) {
	var heads []string
	cells := make([][]string, len(rows))
	add := func(head string, of func(*tableRow) string) {
		if !slices.ContainsFunc(rows, func(r *tableRow) bool { return of(r) != "" }) {
			return
		}
		heads = append(heads, head)
		for i, r := range rows {
			cells[i] = append(cells[i], strings.ReplaceAll(of(r), "|", `\|`))
		}
	}
	for _, c := range columns() {
		if c.head == "result" {
			for _, way := range wayColumns() {
				add(way, func(r *tableRow) string { return r.ways[way] })
			}
		}
		add(c.head, func(r *tableRow) string { return *c.field(r) })
	}
	fmt.Fprintf(text, "## %s\n\n%s| %s |\n|%s\n", rows[0].section, sectionNotes[rows[0].section], strings.Join(heads, " | "), strings.Repeat("---|", len(heads)))
	for _, row := range cells {
		fmt.Fprintf(text, "| %s |\n", strings.Join(row, " | "))
	}
	text.WriteByte('\n')
}

// readDocument gives the rows of a document.
func readDocument(path string) ([]*tableRow, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var rows []*tableRow
	var section string
	var heads []string
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSuffix(line, "\n")
		switch {
		case strings.HasPrefix(line, "## "):
			section, heads = strings.TrimPrefix(line, "## "), nil
		case !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---"):
		case heads == nil:
			heads = cellsOf(line)
		default:
			r := &tableRow{section: section, ways: map[string]string{}}
			for i, cell := range cellsOf(line) {
				r.set(heads[min(i, len(heads)-1)], cell)
			}
			rows = append(rows, r)
		}
	}
	return rows, nil
}

// set fills the field below a column's head.
func (r *tableRow) set(head, cell string) {
	for _, c := range columns() {
		if c.head == head {
			*c.field(r) = cell
			return
		}
	}
	if cell != "" {
		r.ways[head] = cell
	}
}

// cellsOf splits a line of a table. A bar within a cell is escaped.
func cellsOf(line string) []string {
	const bar = "\x00"
	line = strings.ReplaceAll(strings.Trim(line, "|"), `\|`, bar)
	cells := strings.Split(line, "|")
	for i, cell := range cells {
		cells[i] = strings.ReplaceAll(strings.TrimSpace(cell), bar, "|")
	}
	return cells
}

// scriptsOf are the files of a section that has files.
func scriptsOf(dir string) ([]string, error) { return filepath.Glob(filepath.Join(dir, "*.txtar")) }

// hashOf is the beginning of a file's hash.
func hashOf(path string) string {
	text, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%x", sha256.Sum256(text))[:8]
}

// TestDocument keeps docs/compatibility.md honest: it has a row for everything in the suite, made with the very script that is there now, none for what is not
// there, no failure, nothing slow, and the sum of its rows.
func TestDocument(t *testing.T) {
	text, err := os.ReadFile(documentPath)
	if err != nil {
		t.Fatal(err)
	}
	rows, err := readDocument(documentPath)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasSuffix(string(text), "\n"+sumOf(rows)+"\n") {
		t.Errorf("its rows are %s, which is not its last line", sumOf(rows))
	}
	told := map[string]string{} // by section and name
	for _, r := range rows {
		told[r.section+"/"+r.name] = r.script
		if r.result != passed && !strings.HasPrefix(r.result, notRun+": ") || slices.ContainsFunc(valuesOf(r.ways), func(showed string) bool { return showed != same }) {
			t.Errorf("%s, %s: %s", r.section, r.name, r.result)
		}
	}
	present := map[string]string{}
	for section, suite := range suites {
		files, err := scriptsOf(suite.dir)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			present[section+"/"+strings.TrimSuffix(filepath.Base(file), ".txtar")] = hashOf(file)
		}
	}
	for name, hash := range present {
		section, _, _ := strings.Cut(name, "/")
		if told[name] != hash {
			t.Errorf("%s (script %s) is recorded as %q; run make compat RUN='%s%s'", name, hash, told[name], suites[section].test, strings.TrimPrefix(name, section))
		}
	}
	for name, hash := range told {
		if section, _, _ := strings.Cut(name, "/"); suites[section].dir != "" && present[name] == "" {
			t.Errorf("%s (script %s) is told of, and not there", name, hash)
		}
	}
	checkScripts(t, told)
}

// checkScripts wants a row for each of OpenSSH's scripts, as far as they are known here.
func checkScripts(t *testing.T, told map[string]string) {
	t.Helper()
	reasons, err := readReasons("testdata/openssh.txt")
	if err != nil {
		t.Fatal(err)
	}
	names := quickScripts
	for name := range reasons {
		names = append(names, name)
	}
	for _, name := range names {
		if _, ok := told[regressSection+"/"+name]; !ok {
			t.Errorf("OpenSSH's %s is not told of; run make compat RUN='TestOpenSSH/^%s$'", name, name)
		}
	}
}

func valuesOf(ways map[string]string) []string {
	values := make([]string, 0, len(ways))
	for _, value := range ways {
		values = append(values, value)
	}
	return values
}
