package compat

import (
	"cmp"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

var record = flag.Bool("record", false, "write what a part of the suite has shown into docs/compatibility.md, beside what stands there; the whole suite always writes")

// theTable collects what was run, for docs/compatibility.md.
var theTable table

type table struct {
	mu   sync.Mutex
	rows []*tableRow
}

// tableRow is one thing that was run, or not.
type tableRow struct {
	section, name string
	client        string            // whose program, with its version, where that is not OpenSSH's of this system
	about         string            // what was done
	ways          map[string]string // what each route showed, beside the plain connection
	time          string            // its class on the plain connection, beyond its logins
	result        string            // passed, failed, not run: why
	script        string            // the beginning of the hash of the file that says what to do; empty where there is none here
	commit        string            // of the gateway
}

const (
	passed = "passed"
	failed = "failed"
	notRun = "not run"

	same    = "same"
	differs = "differs"
	slow    = "slow" // the same, in another class of time
)

// row begins a row; its close reads the result off the test.
func (tb *table) row(section, name, about string) *tableRow {
	r := &tableRow{section: section, name: name, about: about, ways: map[string]string{}, commit: thisCommit()}
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
	case !t.Skipped():
		r.result = passed
	}
}

// compared notes what a route showed: same, differs or slow.
func (r *tableRow) compared(way route, showed string) {
	head := string(way)
	if warm {
		head += warmSuffix
	}
	r.ways[head] = showed
}

// timed notes what it took without the gateway, on the system's sshd.
func (r *tableRow) timed(way route, took time.Duration) {
	if everything && way == plain {
		r.time = classOf(took)
	}
}

// skip is t.Skip, with the reason in the table.
func (r *tableRow) skip(t *testing.T, why string) {
	t.Helper()
	r.result = notRun + ": " + why
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

// finish says the result, in one line after those that are not well, and writes the document: anew if that is all of the suite, else, if it is to be recorded,
// with the rows of today in the place of their former ones.
func (tb *table) finish(out io.Writer, all bool) error {
	tb.mu.Lock()
	defer tb.mu.Unlock()
	now := slices.Clone(tb.rows)
	if len(now) == 0 {
		return nil
	}
	for _, r := range now {
		if r.result != passed {
			fmt.Fprintf(out, "%s: %s: %s\n", r.section, r.name, r.result)
		}
	}
	fmt.Fprintln(out, sumOf(now))
	if !all && !*record {
		return nil
	}
	if !all {
		before, err := readDocument(documentPath)
		if err != nil && !os.IsNotExist(err) {
			return err
		}
		now = merge(before, now)
	}
	return os.WriteFile(documentPath, document(now), 0o644)
}

// merge puts today's rows in the place of their former ones. What the same script showed on ways that were not gone today stays, and the row is then as old as
// that.
func merge(before, now []*tableRow) []*tableRow {
	kept := slices.DeleteFunc(before, func(old *tableRow) bool {
		at := slices.IndexFunc(now, func(r *tableRow) bool { return r.section == old.section && r.name == old.name })
		if at >= 0 && now[at].script == old.script && now[at].result == passed && old.result == passed {
			now[at].time = cmp.Or(now[at].time, old.time)
			for way, showed := range old.ways {
				if now[at].ways[way] == "" {
					now[at].ways[way], now[at].commit = showed, old.commit
				}
			}
		}
		return at >= 0
	})
	return append(kept, now...)
}

// sumOf counts results.
func sumOf(rows []*tableRow) string {
	count := map[string]int{}
	for _, r := range rows {
		result, _, _ := strings.Cut(r.result, ": ")
		count[result]++
	}
	return fmt.Sprintf("%d passed, %d failed, %d not run", count[passed], count[failed], count[notRun])
}

// thisCommit names the tree that is being tested: its commit, and a plus where something has been changed since, but for the scripts, which rows name themselves.
var thisCommit = sync.OnceValue(func() string {
	commit, err := exec.Command("git", "rev-parse", "--short=9", "HEAD").Output()
	if err != nil {
		return "unknown"
	}
	changed, err := exec.Command("git", "status", "--porcelain", "--untracked-files=no", ":/", ":!/docs", ":!/integration/compat/testdata").Output()
	if err != nil || len(changed) > 0 {
		return strings.TrimSpace(string(commit)) + "+"
	}
	return strings.TrimSpace(string(commit))
})

// system is what the suite ran on, beside the gateway.
func system() string {
	version, _ := exec.Command("ssh", "-V").CombinedOutput()
	return fmt.Sprintf("%s/%s, %s", runtime.GOOS, runtime.GOARCH, cmp.Or(strings.TrimSpace(string(version)), "no ssh"))
}
