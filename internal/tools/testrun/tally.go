package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"sort"
	"strings"
)

// event is one line of go test -json (go doc test2json, and "go help buildjson" for the build's).
type event struct {
	Action      string
	Package     string
	Test        string
	Elapsed     float64
	Output      string
	ImportPath  string // of build-output and build-fail
	FailedBuild string // on a package's fail: the ImportPath whose build failed
}

// outcome is a test that did not simply pass. An empty test name means the package itself: it did not build, panicked, leaked or timed out.
type outcome struct{ pkg, test, output string }

// tally adds events up.
type tally struct {
	out     io.Writer
	running map[string]*strings.Builder // output by package and test, dropped when a test passes
	builds  map[string]*strings.Builder // output by ImportPath
	failing map[string]bool             // packages with a failed test
	passed  int
	failed  []outcome
	skipped []outcome
}

func newTally(out io.Writer) *tally {
	return &tally{out: out, running: map[string]*strings.Builder{}, builds: map[string]*strings.Builder{}, failing: map[string]bool{}}
}

// readAll takes events until the end. Lines that are no event are shown as they are: go test prints some of its own complaints so.
func (t *tally) readAll(r *bufio.Reader) error {
	for {
		line, err := r.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Fprint(t.out, string(line))
			} else {
				t.add(e)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (t *tally) add(e event) {
	key := e.Package + "\x00" + e.Test
	switch e.Action {
	case "output":
		keep(t.running, key, e.Output)
	case "build-output":
		keep(t.builds, e.ImportPath, e.Output)
	case "pass":
		t.pass(key, e)
	case "skip":
		t.skip(key, e)
	case "fail":
		t.fail(key, e)
	}
}

func keep(in map[string]*strings.Builder, key, text string) {
	b := in[key]
	if b == nil {
		b = &strings.Builder{}
		in[key] = b
	}
	b.WriteString(text)
}

func take(from map[string]*strings.Builder, key string) string {
	b := from[key]
	if b == nil {
		return ""
	}
	delete(from, key)
	return b.String()
}

func (t *tally) pass(key string, e event) {
	take(t.running, key)
	if e.Test == "" {
		fmt.Fprintf(t.out, "ok    %-60s %6.1f s\n", short(e.Package), e.Elapsed)
		return
	}
	t.passed++
}

func (t *tally) skip(key string, e event) {
	text := take(t.running, key)
	if e.Test == "" {
		fmt.Fprintf(t.out, "-     %-60s no tests\n", short(e.Package))
		return
	}
	t.skipped = append(t.skipped, outcome{e.Package, e.Test, lastWord(text)})
}

func (t *tally) fail(key string, e event) {
	text := take(t.running, key)
	if e.Test != "" {
		t.failing[e.Package] = true
		t.failed = append(t.failed, outcome{e.Package, e.Test, text})
		if lastWord(text) != "" || !t.failedBelow(e) { // a parent that only says that a child failed is not worth a paragraph
			t.show(e.Package+" "+e.Test, text)
		}
		return
	}
	fmt.Fprintf(t.out, "FAIL  %-60s %6.1f s\n", short(e.Package), e.Elapsed)
	if t.failing[e.Package] {
		return
	}
	// No test of it failed, so the package did: tell what it printed, and what tests that never ended printed.
	text += take(t.builds, e.FailedBuild) + t.unfinished(e.Package)
	t.failed = append(t.failed, outcome{e.Package, "", text})
	t.show(e.Package, text)
}

// failedBelow reports whether a subtest of the test has failed.
func (t *tally) failedBelow(e event) bool {
	return slices.ContainsFunc(t.failed, func(o outcome) bool { return o.pkg == e.Package && strings.HasPrefix(o.test, e.Test+"/") })
}

// unfinished gives the output of the package's tests that never came to an end, by name.
func (t *tally) unfinished(pkg string) string {
	var keys []string
	for key := range t.running {
		if strings.HasPrefix(key, pkg+"\x00") {
			keys = append(keys, key)
		}
	}
	sort.Strings(keys)
	var all strings.Builder
	for _, key := range keys {
		all.WriteString(take(t.running, key))
	}
	return all.String()
}

func (t *tally) show(title, text string) {
	fmt.Fprintf(t.out, "\n--- FAIL %s\n%s\n", title, strings.TrimRight(text, "\n"))
}
