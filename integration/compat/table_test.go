package compat

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// theTable collects what was run, for docs/compatibility.md.
var theTable table

type table struct {
	mu   sync.Mutex
	rows []*tableRow
}

// tableRow is one thing that was run, or not.
type tableRow struct {
	section, name, about string
	result               string // passed, failed, not run
	why                  string // of what was not run
}

const (
	passed = "passed"
	failed = "failed"
	notRun = "not run"
)

// row begins a row; its close reads the result off the test.
func (tb *table) row(section, name, about string) *tableRow {
	r := &tableRow{section: section, name: name, about: about}
	tb.mu.Lock()
	defer tb.mu.Unlock()
	tb.rows = append(tb.rows, r)
	return r
}

func (r *tableRow) close(t *testing.T) {
	t.Helper()
	switch {
	case t.Failed():
		r.result = failed
	case t.Skipped():
		r.result = notRun
	default:
		r.result = passed
	}
}

// skip is t.Skip, with the reason in the table.
func (r *tableRow) skip(t *testing.T, why string) {
	t.Helper()
	r.why = why
	t.Skip(why)
}

// needs skips where a program is missing, or a file below $TOOLS. scripts/prepare-test with COMPAT=1 installs them all.
func (r *tableRow) needs(t *testing.T, program string) {
	t.Helper()
	if file, ok := strings.CutPrefix(program, "$TOOLS/"); ok {
		if _, err := os.Stat(filepath.Join(toolsDir(), file)); err != nil {
			r.skip(t, file+" is not installed below .tools")
		}
		return
	}
	if _, err := exec.LookPath(program); err != nil {
		r.skip(t, program+" is not installed")
	}
}

const tablePath = "../../docs/compatibility.md"

const tableIntro = `# Compatibility

Written by ` + "`make compat`" + ` from what happened; do not edit. Every row went through the gateway binary to a real sshd behind the emulated Session Manager.
"Scenarios" compares standard output, standard error, exit status and files left behind with a plain connection to the same sshd, on the ways jump
(` + "`ssh -J`" + `), direct (` + "`user@i-…@gateway`" + `) and connect (ProxyCommand). "OpenSSH's own tests" are the regression scripts of the version named there, unchanged.
What is not run has its reason beside it.

`

// finish says the result, in one line after those that are not well, and writes the document if that is all of the suite.
func (tb *table) finish(out io.Writer, all bool) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	var text bytes.Buffer
	text.WriteString(tableIntro)
	count := map[string]int{}
	var sections []string
	for _, r := range tb.rows {
		count[r.result]++
		if !slices.Contains(sections, r.section) {
			sections = append(sections, r.section)
		}
	}
	for _, section := range sections {
		fmt.Fprintf(&text, "## %s\n\n| what | about | result |\n|---|---|---|\n", section)
		for _, r := range tb.rows {
			if r.section == section {
				fmt.Fprintf(&text, "| %s | %s | %s |\n", r.name, cell(r.about), cell(r.verdict()))
			}
		}
		text.WriteByte('\n')
	}
	sum := fmt.Sprintf("%d passed, %d failed, %d not run", count[passed], count[failed], count[notRun])
	fmt.Fprintf(&text, "%s\n", sum)
	for _, r := range tb.rows {
		if r.result != passed {
			fmt.Fprintf(out, "%s: %s: %s\n", r.section, r.name, r.verdict())
		}
	}
	fmt.Fprintln(out, sum)
	if !all {
		return nil
	}
	return os.WriteFile(tablePath, text.Bytes(), 0o644)
}

func (r *tableRow) verdict() string {
	if r.result == notRun {
		return notRun + ": " + r.why
	}
	return r.result
}

// cell keeps a text within its column.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
