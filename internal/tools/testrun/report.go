package main

import (
	"fmt"
	"strings"
)

const module = "github.com/ssm-ssh-gateway/ssm-ssh-gateway"

// report prints the end of the story and says whether it is a good one. A run without a single test is not.
func (t *tally) report() bool {
	for _, list := range []struct {
		title    string
		outcomes []outcome
		reason   bool
	}{{"Skipped", t.skipped, true}, {"Failed", t.failed, false}} {
		if len(list.outcomes) == 0 {
			continue
		}
		fmt.Fprintf(t.out, "\n%s:\n", list.title)
		for _, o := range list.outcomes {
			line := "  " + strings.TrimSpace(short(o.pkg)+" "+o.test)
			if list.reason && o.output != "" {
				line += ": " + o.output
			}
			fmt.Fprintln(t.out, line)
		}
	}
	fmt.Fprintf(t.out, "\n%d passed, %d failed, %d skipped\n", t.passed, len(t.failed), len(t.skipped))
	return len(t.failed) == 0 && t.passed > 0
}

// short names a package below the module's root.
func short(pkg string) string {
	if rest, ok := strings.CutPrefix(pkg, module); ok {
		return "." + rest
	}
	return pkg
}

// lastWord is the reason in a skipped test's output: its last line that is not go test's own, without the file and line in front.
func lastWord(output string) string {
	reason := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "=== ") || strings.HasPrefix(line, "--- ") {
			continue
		}
		if place, rest, ok := strings.Cut(line, ": "); ok && strings.Contains(place, ".go:") {
			line = rest
		}
		reason = line
	}
	return reason
}
