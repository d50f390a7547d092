package ssmproto

import (
	"context"
	"fmt"
	"io"
)

// Shell is a session that runs a shell or a command (SPEC.md §8). Its Read and Write are those of the Conn: output of the terminal, input to it.
type Shell struct {
	*Conn
}

// DialShell opens the session of grant as Dial does, and keeps its standard error and exit code apart from its output. Standard error has to be read
// like the output: what nobody reads stops the session. A session that is silent for Options.HandshakeTimeout counts as open: its program may be waiting for
// input (SPEC.md §5.1). Should there be no agent behind it, Options.PeerTimeout begins with the first thing written.
func DialShell(ctx context.Context, grant Grant, options *Options) (*Shell, error) {
	c, err := dial(ctx, grant, options, true)
	if err != nil {
		return nil, err
	}
	return &Shell{Conn: c}, nil
}

// Stderr gives what the command writes to its standard error, for documents that separate it; for others it is only an end of file.
func (s *Shell) Stderr() io.Reader { return stderrReader{s.Conn} }

type stderrReader struct{ conn *Conn }

// Read has the rules of Conn.Read.
func (r stderrReader) Read(p []byte) (int, error) { return r.conn.readFrom(&r.conn.stderr, p) }

// ExitCode gives the exit code of the command, once it has arrived. Only NonInteractiveCommands with separated output send one. It is the last message
// of such a session: an end without it means that output may be missing, since an agent waits 2 s for acknowledgements and then leaves (SPEC.md §8).
func (s *Shell) ExitCode() (code int, known bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exitCode == nil {
		return 0, false
	}
	return *s.exitCode, true
}

// Resize tells the terminal its size in characters. It waits for room like Write.
func (s *Shell) Resize(size Size) error {
	if err := s.compose(PayloadSize, size.Append(nil), true); err != nil {
		return fmt.Errorf("ssmproto: resize: %w", err)
	}
	return nil
}

// ControlCode is a signal as the terminal of a shell session takes it: one byte of input (SPEC.md §8.1).
type ControlCode byte

// The signals that can be sent.
const (
	Interrupt ControlCode = 0x03 // SIGINT
	Quit      ControlCode = 0x1c // SIGQUIT
	Suspend   ControlCode = 0x1a // SIGTSTP
)

// Signal sends a signal. It waits for room like Write.
func (s *Shell) Signal(code ControlCode) error {
	if err := s.compose(PayloadOutput, []byte{byte(code)}, true); err != nil {
		return fmt.Errorf("ssmproto: signal: %w", err)
	}
	return nil
}
