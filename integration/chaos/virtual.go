package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os/exec"
	"regexp"
	"strconv"
)

// tallyLine is how TestChaos ends.
var tallyLine = regexp.MustCompile(`(\d+) schedules, (\d+) failed$`)

// playVirtual runs the test of ssmproto: virtual time is given to tests only. Its report of failures goes to out.
func playVirtual(ctx context.Context, l limits, out io.Writer) (tally, error) {
	cmd := exec.CommandContext(ctx, "go", "test", "-count=1", "-timeout=0", "-v", "-run=^TestChaos$", "github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto",
		"-args", "-schedules", strconv.Itoa(l.schedules), "-seconds", strconv.Itoa(int(l.time.Seconds())), "-seed", strconv.FormatUint(l.seed, 10))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return tally{}, err
	}
	if err := cmd.Start(); err != nil {
		return tally{}, fmt.Errorf("go test: %w", err)
	}
	t, done := follow(stdout, out)
	err = cmd.Wait()
	if !done {
		return tally{}, fmt.Errorf("go test did not finish: %w\n%s", err, stderr.Bytes())
	}
	return t, nil
}

// follow passes on what a running test says of failures, and reads its last line.
func follow(test io.Reader, out io.Writer) (t tally, done bool) {
	lines := bufio.NewScanner(test)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		line := lines.Text()
		if numbers := tallyLine.FindStringSubmatch(line); numbers != nil {
			t.played, _ = strconv.Atoi(numbers[1])
			t.failed, _ = strconv.Atoi(numbers[2])
			done = true
		}
		if len(line) > 0 && line[0] == ' ' && !bytes.Contains(lines.Bytes(), []byte("--- PASS")) {
			fmt.Fprintln(out, line)
		}
	}
	return t, done
}
