// Command testrun runs go test and tells what happened: each package on a line, all output of what failed, and at the end the names of
// every failed and every skipped test with its reason, so that nothing passes by skipping quietly.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout))
}

// run gives the exit code: go test's own, or 1 if it claims success while a test failed or none ran.
func run(args []string, out io.Writer) int {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		return 1
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(os.Stderr, "testrun:", err)
		return 1
	}
	tally := newTally(out)
	readErr := tally.readAll(bufio.NewReader(events))
	waitErr := cmd.Wait()
	ok := tally.report()
	switch {
	case readErr != nil:
		fmt.Fprintln(os.Stderr, "testrun: reading go test's events:", readErr)
		return 1
	case waitErr != nil:
		fmt.Fprintln(os.Stderr, "testrun: go test:", waitErr)
		if code := cmd.ProcessState.ExitCode(); code > 0 {
			return code
		}
		return 1
	case !ok:
		return 1
	}
	return 0
}
