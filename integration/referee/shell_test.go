package referee_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"syscall"
	"testing"

	"github.com/creack/pty"
)

// terminal runs the plugin on a terminal of its own; what it shows goes to the transcript.
func (w *world) terminal(t *testing.T, ctx context.Context, document string, parameters map[string][]string, size pty.Winsize) (*session, func(pty.Winsize)) {
	t.Helper()
	s := w.command(t, ctx, document, parameters)
	screen, err := pty.StartWithSize(s.cmd, &size)
	if err != nil {
		t.Fatal(err)
	}
	s.in = screen
	read := make(chan error, 1)
	go func() {
		_, err := io.Copy(s.out, screen)
		read <- err
	}()
	t.Cleanup(func() {
		if s.cmd.ProcessState == nil {
			_ = s.cmd.Process.Kill()
			_ = s.cmd.Wait()
		}
		// Linux ends reading from a terminal whose programs are gone with EIO.
		if err := <-read; err != nil && !errors.Is(err, syscall.EIO) {
			t.Errorf("reading the terminal: %v", err)
		}
		_ = screen.Close()
	})
	return s, func(size pty.Winsize) {
		if err := pty.Setsize(screen, &size); err != nil {
			t.Fatal(err)
		}
	}
}

// A shell on a terminal: the plugin's size arrives, later ones too, and leaving the shell ends the session and the plugin.
func TestShell(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w := newWorld(t, ctx, nil)
	s, resize := w.terminal(t, ctx, "", nil, pty.Winsize{Rows: 33, Cols: 101})
	s.out.until(t, ctx, prompt) // what is typed earlier the agent may lose, as the real one does
	s.types(t, "echo sum $((6*7))\r")
	s.out.until(t, ctx, "sum 42")
	for _, size := range []pty.Winsize{{Rows: 33, Cols: 101}, {Rows: 40, Cols: 120}} {
		resize(size)
		s.settle(w) // the plugin looks at its terminal every half second, and tells of it from a goroutine of its own
		want := fmt.Sprintf("%d %d", size.Rows, size.Cols)
		s.types(t, fmt.Sprintf("until stty size | grep -q '^%s$'; do sleep 0.05; done; echo size $(stty size)\r", want))
		s.out.until(t, ctx, "size "+want)
	}
	s.types(t, "exit\r")
	s.ends(t, ctx, w)
}

// Control-C goes to the program on the machine, not to the plugin.
func TestShellInterrupt(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w := newWorld(t, ctx, nil)
	s, _ := w.terminal(t, ctx, "", nil, pty.Winsize{Rows: 24, Cols: 80})
	s.out.until(t, ctx, prompt)
	// What says that it has begun is what is interrupted: a shell that is about to start a program may take the signal for itself, or the program not yet.
	s.types(t, "sh -c 'echo begun $((2*21)); exec sleep 3600'\r")
	s.out.until(t, ctx, "begun 42")
	s.settle(w) // the plugin sends a signal and what is typed from two goroutines
	s.types(t, "\x03")
	if _, err := s.out.after(ctx, "^C", len("\r\r\n"+prompt)); err != nil {
		t.Fatalf("%v in:\n%s", err, s.out.String())
	}
	s.settle(w)
	s.types(t, "echo still $((40+2))\r")
	s.out.until(t, ctx, "still 42")
	s.types(t, "exit\r")
	s.ends(t, ctx, w)
}

func TestInteractiveCommand(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w := newWorld(t, ctx, nil)
	s, _ := w.terminal(t, ctx, "AWS-StartInteractiveCommand", map[string][]string{"command": {"echo who; read -r x; echo got $x"}}, pty.Winsize{Rows: 24, Cols: 80})
	s.out.until(t, ctx, "who")
	s.types(t, "hello\r")
	s.out.until(t, ctx, "got hello")
	s.ends(t, ctx, w)
}

func TestNonInteractiveCommand(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	w := newWorld(t, ctx, nil)
	s := w.start(t, ctx, "AWS-StartNonInteractiveCommand", map[string][]string{"command": {"echo one; echo two >&2"}})
	s.ends(t, ctx, w)
	for _, want := range []string{"one", "two"} {
		if !strings.Contains(s.out.String(), want) {
			t.Errorf("%q was not printed:\n%s", want, s.out.String())
		}
	}
}

func (s *session) types(t *testing.T, text string) {
	t.Helper()
	if _, err := io.WriteString(s.in, text); err != nil {
		t.Fatal(err)
	}
}
