package instance_test

import (
	"bytes"
	"crypto/rand"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/creack/pty"
)

// screen collects what a terminal shows and tells when a text has appeared.
type screen struct {
	mu     sync.Mutex
	text   bytes.Buffer
	change chan struct{}
}

func (s *screen) follow(t *testing.T, tty *os.File) {
	t.Helper()
	s.change = make(chan struct{}, 1)
	done := make(chan struct{})
	go func() {
		defer close(done)
		buffer := make([]byte, 4096)
		for {
			n, err := tty.Read(buffer)
			s.mu.Lock()
			s.text.Write(buffer[:n])
			s.mu.Unlock()
			select {
			case s.change <- struct{}{}:
			default:
			}
			if err != nil {
				close(s.change)
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = tty.Close()
		<-done
	})
}

func (s *screen) shows(text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return strings.Contains(s.text.String(), text)
}

// await returns when text is on the screen; the limit is that of the ssh command.
func (s *screen) await(t *testing.T, text string) {
	t.Helper()
	for !s.shows(text) {
		if _, open := <-s.change; !open && !s.shows(text) {
			t.Fatalf("the terminal closed without %q: %q", text, s.text.String())
		}
	}
}

func TestShellOnTerminalWithResize(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		cmd := p.command("ssh", "target")
		cmd.Env = append(os.Environ(), "TERM=xterm")
		tty, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 24, Cols: 80})
		if err != nil {
			t.Fatal(err)
		}
		var s screen
		s.follow(t, tty)
		enter := func(line string) {
			if _, err := tty.WriteString(line + "\n"); err != nil {
				t.Fatal(err)
			}
		}
		// The quotes keep the echo of what is typed from being taken for its result.
		enter(`tty -s && echo "on a ""tty"; echo "size"" $(stty size) $TERM"`)
		s.await(t, "on a tty")
		s.await(t, "size 24 80 xterm")
		if err := pty.Setsize(tty, &pty.Winsize{Rows: 50, Cols: 132}); err != nil {
			t.Fatal(err)
		}
		enter(`until [ "$(stty size)" = "50 132" ]; do read -t 0.1 x; done; echo "now"" $(stty size)"`)
		s.await(t, "now 50 132")
		enter("exit 9")
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 9 {
			t.Errorf("exit code %d", code)
		}
	})
}

func TestInterruptOnTerminal(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		cmd := p.command("ssh", "-tt", "target", `trap 'echo "got it"; exit 3' INT; echo "wait""ing"; while :; do read -t 1 x; done`)
		tty, err := pty.Start(cmd)
		if err != nil {
			t.Fatal(err)
		}
		var s screen
		s.follow(t, tty)
		s.await(t, "waiting")
		if _, err := tty.Write([]byte{3}); err != nil {
			t.Fatal(err)
		}
		s.await(t, "got it")
		_ = cmd.Wait()
		if code := cmd.ProcessState.ExitCode(); code != 3 {
			t.Errorf("exit code %d", code)
		}
	})
}

func TestStreamThroughCat(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		data := make([]byte, 4<<20)
		if _, err := rand.Read(data); err != nil {
			t.Fatal(err)
		}
		if got := p.run(string(data), "ssh", "target", "cat"); got.stdout != string(data) || got.code != 0 {
			t.Errorf("%d of %d bytes came back, code %d, stderr %q", len(got.stdout), len(data), got.code, got.stderr)
		}
	})
}

func TestFilesThereAndBack(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		data := make([]byte, 1<<20)
		if _, err := rand.Read(data); err != nil {
			t.Fatal(err)
		}
		source := p.file("source", string(data), 0o644)
		back := filepath.Join(p.dir, "back")
		same := func(way string) {
			t.Helper()
			if got, err := os.ReadFile(back); err != nil || !bytes.Equal(got, data) {
				t.Errorf("%s: %d of %d bytes came back, %v", way, len(got), len(data), err)
			}
			_ = os.Remove(back)
		}
		for _, protocol := range []string{"-s", "-O"} { // SFTP, and the older protocol that runs scp on the other side
			for _, args := range [][]string{{protocol, source, "target:there"}, {protocol, "target:there", back}} {
				if got := p.run("", "scp", args...); got.code != 0 {
					t.Fatalf("scp %q: code %d, %s", args, got.code, got.stderr)
				}
			}
			same("scp " + protocol)
		}
		batch := p.file("batch", "put "+source+" sub\nrename sub moved\nget moved "+back+"\nrm moved\n", 0o600)
		if got := p.run("", "sftp", "-b", batch, "target"); got.code != 0 {
			t.Fatalf("sftp: code %d, %s %s", got.code, got.stdout, got.stderr)
		}
		same("sftp")
	})
}
