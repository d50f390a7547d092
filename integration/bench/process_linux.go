package main

import (
	"fmt"
	"os/exec"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// dieWithParent lets the kernel end a child when this program dies without a chance to do so.
func dieWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setpgid: true}
}

// killGroup ends a command with everything it has started when its context ends.
func killGroup(cmd *exec.Cmd) {
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// processorTime is what a process has used so far, without its children: its processor clock, to the nanosecond. /proc/PID/stat counts in ticks of 10 ms,
// and who wakes a thousand times a second for a few microseconds is asleep at most of them.
func processorTime(pid int) (time.Duration, error) {
	const schedClock = 2 // CPUCLOCK_SCHED, clock_getcpuclockid(3) in the kernel's encoding: the complement of the process id above three bits
	var used unix.Timespec
	if err := unix.ClockGettime(int32(^pid)<<3|schedClock, &used); err != nil {
		return 0, fmt.Errorf("processor clock of process %d: %w", pid, err)
	}
	return time.Duration(used.Nano()), nil
}

// toggleProfile tells a program that was built with -tags profile to begin, or to end and write.
func toggleProfile(pid int) error { return syscall.Kill(pid, syscall.SIGUSR1) }
