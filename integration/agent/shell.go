package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// commandProperties are the properties of command sessions, one set for each system (SPEC.md §13.3).
type commandProperties map[string]struct {
	Commands              string `json:"commands"`
	SeparateOutputStream  flag   `json:"separateOutputStream"`
	StdOutSeparatorPrefix string `json:"stdOutSeparatorPrefix"`
	StdErrSeparatorPrefix string `json:"stdErrSeparatorPrefix"`
}

// flag is a truth value that a parameter may have made a string of.
type flag bool

// UnmarshalJSON accepts true and "true".
func (f *flag) UnmarshalJSON(text []byte) error {
	*f = flag(strings.EqualFold(strings.Trim(string(text), `"`), "true"))
	return nil
}

func platform() string {
	if runtime.GOOS == "darwin" {
		return "macos"
	}
	return runtime.GOOS
}

// shell is a program on a pty: a login shell, or the command of an InteractiveCommands session (SPEC.md §8.2).
type shell struct {
	session *session
	args    []string
	profile string // typed into the shell when it starts

	tty  terminal      // from connect on
	done chan struct{} // the program has ended
}

// terminal is a pty's near end.
type terminal interface {
	io.ReadWriteCloser
	resize(cols, rows uint32) error
}

func (s *session) newShell() (plugin, error) {
	if s.start.kind == typeShell {
		return &shell{session: s, args: s.agent.cfg.Shell, profile: s.start.inputs.ShellProfile.Linux, done: make(chan struct{})}, nil
	}
	var properties commandProperties
	if err := json.Unmarshal(s.start.properties, &properties); err != nil {
		return nil, fmt.Errorf("unable to read command properties: %w", err)
	}
	commands := properties[platform()].Commands
	if strings.TrimSpace(commands) == "" {
		return nil, errNoCommands
	}
	return &shell{session: s, args: []string{"sh", "-c", commands}, done: make(chan struct{})}, nil
}

var errNoCommands = errors.New("commands cannot be empty for session type with commands")

func (p *shell) connect(ctx context.Context) error {
	cmd := exec.CommandContext(ctx, p.args[0], p.args[1:]...)
	cmd.Env = terminalEnv()
	tty, err := startOnTerminal(cmd)
	if err != nil {
		return fmt.Errorf("unable to start shell: %w", err)
	}
	p.tty = tty
	go func() {
		defer close(p.done)
		err := cmd.Wait()
		p.session.agent.log.Debug("shell ended", "session", p.session.start.id, "err", err)
	}()
	if p.profile != "" {
		_, err = io.WriteString(tty, strings.TrimRight(p.profile, "\n")+"\n")
	}
	return err
}

func terminalEnv() []string {
	env := append(os.Environ(), "TERM=xterm-256color")
	if os.Getenv("LANG") == "" {
		env = append(env, "LANG=C.UTF-8")
	}
	return env
}

// serve shows the output, after the pause of the real agent, until the program has ended and everything it wrote is sent.
func (p *shell) serve(ctx context.Context) error {
	defer func() { <-p.done }()
	defer p.tty.Close()
	stop := context.AfterFunc(ctx, func() { _ = p.tty.Close() })
	defer stop()
	if !p.session.agent.cfg.Quirks.NoShellDelay && !sleep(ctx, shellDelay) {
		return nil
	}
	cut := &runeCutter{from: p.tty}
	_ = p.session.pump(ctx, cut, ssmproto.PayloadOutput) // a pty whose program is gone gives an error, which is its end of file
	return nil
}

func (p *shell) input(_ context.Context, m ssmproto.Message) error {
	switch m.PayloadType {
	case ssmproto.PayloadOutput:
		_, err := p.tty.Write(m.Payload)
		return err
	case ssmproto.PayloadSize:
		var size struct{ Cols, Rows uint32 }
		if err := json.Unmarshal(m.Payload, &size); err != nil {
			return err
		}
		return p.tty.resize(size.Cols, size.Rows)
	}
	return nil
}

// runeCutter reads without cutting a UTF-8 sequence in two: up to three bytes of an unfinished one are held back for the next read, and lost at the
// end (SPEC.md §8.2).
type runeCutter struct {
	from io.Reader
	held []byte
}

// Read holds back what is not complete.
func (r *runeCutter) Read(b []byte) (int, error) {
	kept := copy(b, r.held)
	n, err := r.from.Read(b[kept:])
	whole := wholeRunes(b[:kept+n])
	r.held = append(r.held[:0], b[whole:kept+n]...)
	return whole, err
}
