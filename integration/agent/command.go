package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"regexp"
	"sync"
	"syscall"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

const (
	signalInterrupt = 0x03 // typed Ctrl-C
	signalQuit      = 0x1c // typed Ctrl-\
	maxCombined     = 16 << 20
)

var (
	validPrefix  = regexp.MustCompile(`^[0-9a-zA-Z\r\n_:-]{0,30}$`)
	errPrefix    = errors.New("stream separator prefix is not valid")
	errPaused    = errors.New("publication was paused while a command was running")
	errTooMuch   = errors.New("the command wrote too much")
	errBadQuotes = errors.New("a quote in the command is not closed")
)

// command is a NonInteractiveCommands session: no shell, no pty and no stdin (SPEC.md §8.2).
type command struct {
	session        *session
	args           []string
	separate       bool
	outPrefix      string
	errPrefix      string
	cmd            *exec.Cmd
	stdout, stderr io.ReadCloser // of a separated command
	combined       *limitedBuffer
}

func (s *session) newCommand() (plugin, error) {
	var properties commandProperties
	if err := json.Unmarshal(s.start.properties, &properties); err != nil {
		return nil, fmt.Errorf("unable to read command properties: %w", err)
	}
	own := properties[platform()]
	args, err := splitWords(own.Commands)
	if err != nil {
		return nil, err
	}
	if len(args) == 0 {
		return nil, errNoCommands
	}
	if !validPrefix.MatchString(own.StdOutSeparatorPrefix) || !validPrefix.MatchString(own.StdErrSeparatorPrefix) {
		return nil, errPrefix
	}
	return &command{
		session: s, args: args, separate: bool(own.SeparateOutputStream), outPrefix: own.StdOutSeparatorPrefix, errPrefix: own.StdErrSeparatorPrefix,
	}, nil
}

// connect starts the command. Why it cannot be started goes to the client as StdErr, besides the failure of the session.
func (c *command) connect(ctx context.Context) error {
	c.cmd = exec.CommandContext(ctx, c.args[0], c.args[1:]...)
	c.cmd.Env = terminalEnv()
	err := c.start()
	if err != nil {
		c.session.channel.send(ssmproto.PayloadStdErr, []byte(err.Error()))
		return fmt.Errorf("unable to start command: %w", err)
	}
	return nil
}

func (c *command) start() error {
	if !c.separate {
		c.combined = &limitedBuffer{}
		c.cmd.Stdout, c.cmd.Stderr = c.combined, c.combined
		return c.cmd.Start()
	}
	outRead, outWrite, err := os.Pipe()
	if err != nil {
		return err
	}
	errRead, errWrite, err := os.Pipe()
	if err != nil {
		_ = outRead.Close()
		_ = outWrite.Close()
		return err
	}
	c.cmd.Stdout, c.cmd.Stderr = outWrite, errWrite
	err = c.cmd.Start()
	_ = outWrite.Close()
	_ = errWrite.Close()
	if err != nil {
		_ = outRead.Close()
		_ = errRead.Close()
		return err
	}
	c.stdout, c.stderr = outRead, errRead
	return nil
}

func (c *command) serve(ctx context.Context) error {
	if !c.separate {
		err := c.cmd.Wait()
		c.session.agent.log.Debug("command ended", "session", c.session.start.id, "err", err)
		c.sendCombined()
		return c.combined.err()
	}
	stop := context.AfterFunc(ctx, func() {
		_ = c.stdout.Close()
		_ = c.stderr.Close()
	})
	defer stop()
	defer c.stdout.Close()
	defer c.stderr.Close()
	var pumps sync.WaitGroup
	var outErr, errErr error
	pumps.Go(func() { outErr = c.pump(c.stdout, ssmproto.PayloadOutput, c.outPrefix) })
	pumps.Go(func() { errErr = c.pump(c.stderr, ssmproto.PayloadStdErr, c.errPrefix) })
	pumps.Wait()
	err := c.cmd.Wait()
	var exited *exec.ExitError
	if err != nil && !errors.As(err, &exited) {
		return err
	}
	if err := errors.Join(outErr, errErr); err != nil {
		return err
	}
	c.session.channel.send(ssmproto.PayloadExitCode, fmt.Appendf(nil, "EXIT_CODE: %d", c.cmd.ProcessState.ExitCode()))
	return nil
}

// sendCombined sends what the command wrote, once it has ended, in messages of the usual size.
func (c *command) sendCombined() {
	size := c.session.agent.cfg.Quirks.readSize()
	for rest := c.combined.bytes(); len(rest) > 0; {
		n := min(size, len(rest))
		c.session.channel.send(ssmproto.PayloadOutput, rest[:n])
		rest = rest[n:]
	}
}

// pump sends one stream while the command runs, without the usual pause; a pause of publication is the end of it (SPEC.md §8.2).
func (c *command) pump(from io.Reader, kind ssmproto.PayloadType, prefix string) error {
	marker := &lineMarker{prefix: []byte(prefix), atStart: true}
	size := c.session.agent.cfg.Quirks.readSize()
	buffer := make([]byte, size)
	for ended := false; !ended; {
		n, err := from.Read(buffer)
		ended = err != nil
		if n > 0 && c.session.channel.isPaused() {
			return errPaused
		}
		for marked := marker.mark(buffer[:n]); len(marked) > 0; {
			part := min(size, len(marked))
			c.session.channel.send(kind, marked[:part])
			marked = marked[part:]
		}
	}
	return nil
}

// input scans for the two keys that are signals here; everything else has nowhere to go (SPEC.md §8.2).
func (c *command) input(_ context.Context, m ssmproto.Message) error {
	if m.PayloadType != ssmproto.PayloadOutput {
		return nil
	}
	for _, key := range m.Payload {
		switch key {
		case signalInterrupt:
			_ = c.cmd.Process.Signal(os.Interrupt)
		case signalQuit:
			_ = c.cmd.Process.Signal(syscall.SIGQUIT)
		}
	}
	return nil
}
