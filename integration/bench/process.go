package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// output runs a command that must succeed, and gives its standard output.
func output(cmd *exec.Cmd) ([]byte, error) {
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.WaitDelay = time.Second
	// A ProxyCommand may keep the output open for a moment after ssh has ended well; its bytes are all there.
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return nil, fmt.Errorf("%s: %w: %s", filepath.Base(cmd.Path), err, lastLines(stderr.String(), 3))
	}
	return stdout.Bytes(), nil
}

// timed runs a command that must succeed, and gives how long it took.
func timed(cmd *exec.Cmd) (time.Duration, error) {
	began := time.Now()
	_, err := output(cmd)
	return time.Since(began), err
}

var errNoProc = errors.New("no /proc here: processor time and memory of other processes cannot be read")

// procStat gives the fields of /proc/PID/stat from the third on: the second is a name that may hold spaces.
func procStat(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, errors.Join(errNoProc, err)
	}
	_, rest, _ := strings.Cut(string(text), ") ")
	fields := strings.Fields(rest)
	if len(fields) < 22 {
		return nil, fmt.Errorf("/proc/%d/stat has too few fields", pid)
	}
	return fields, nil
}

// descendant finds the process of a program below another.
func descendant(above int, program string) (int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return 0, errNoProc
	}
	parents := map[int]int{}
	var candidates []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		fields, err := procStat(pid)
		if err != nil {
			continue // it has just ended
		}
		parents[pid], _ = strconv.Atoi(fields[1])
		if exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", pid)); err == nil && filepath.Base(exe) == program {
			candidates = append(candidates, pid)
		}
	}
	for _, pid := range candidates {
		for up := pid; up > 1; up = parents[up] {
			if up == above {
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("no %s runs below process %d", program, above)
}
