package compat

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
)

// soakCount is how many commands TestSoak runs: $COMPAT_SOAK, else what there is time for.
func soakCount(t *testing.T) int {
	t.Helper()
	if text := os.Getenv("COMPAT_SOAK"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			t.Fatalf("COMPAT_SOAK=%q is not a number of commands", text)
		}
		return n
	}
	if everything {
		return 10000
	}
	return 500
}

// TestSoak runs short commands over one ControlMaster connection, a few side by side, and wants every exit code and every byte of each. Exit status, end of
// file and close are three messages that a gateway can bring into the wrong order, once in a thousand times.
func TestSoak(t *testing.T) {
	w, count := theWorld(t), soakCount(t)
	row := theTable.row("Pressure", "soak", fmt.Sprintf("%d short commands over one ControlMaster connection, four at a time: exit codes and output", count))
	defer row.close(t)
	socket := filepath.Join(openDir(t, "soak"), "ctl")
	if got := run(t, w.sshCommand(jump, "-M", "-S", socket, "-o", "ControlPersist=600", "target", "true"), patience); got.code != 0 {
		t.Fatal(got)
	}
	defer run(t, w.sshCommand(jump, "-S", socket, "-O", "exit", "target"), patience)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range 4 {
		workers.Go(func() {
			for n := int(next.Add(1)); n <= count && !t.Failed(); n = int(next.Add(1)) {
				soakOnce(t, w, socket, n)
			}
		})
	}
	workers.Wait()
}

// soakOnce runs one command. Every third one has some output, every seventh one reads input.
func soakOnce(t *testing.T, w *world, socket string, n int) {
	code, command, want := n%256, "", ""
	cmd := w.sshCommand(jump, "-S", socket, "target")
	if n%7 == 0 {
		want = strings.Repeat("input\n", n%500)
		cmd.Stdin, command = strings.NewReader(want), "cat; "
	}
	if n%3 == 0 {
		most := n % 1000
		command += fmt.Sprintf("seq 1 %d; ", most)
		for i := 1; i <= most; i++ {
			want += strconv.Itoa(i) + "\n"
		}
	}
	cmd.Args = append(cmd.Args, fmt.Sprintf("%sexit %d", command, code))
	if got := run(t, cmd, patience); got.code != code || got.stdout != want || got.stderr != "" {
		t.Errorf("command %d (%s) came back as %s\nwant exit status %d and %d bytes", n, cmd.Args[len(cmd.Args)-1], got, code, len(want))
	}
}

// sshCommand is ssh on a route.
func (w *world) sshCommand(r route, args ...string) *exec.Cmd {
	cmd := exec.Command("ssh", append([]string{"-F", w.sshConfig(r)}, args...)...)
	cmd.Env = w.environ(plain)
	return cmd
}
