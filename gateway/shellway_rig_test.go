package gateway

import (
	"context"
	"fmt"
	"io"
	"net"
	"os/exec"
	"strings"
	"sync"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// StartShell makes fakeCloud a ShellStarter. What is to run travels in the grant.
func (f *fakeCloud) StartShell(ctx context.Context, role authz.Role, _ *authz.Instance, command string, terminal bool, reason string) (ssmproto.Grant, error) {
	f.call(ctx, "shell")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.roles = append(f.roles, role)
	f.reasons = append(f.reasons, reason)
	if err := f.refuse["shell"]; err != nil {
		return ssmproto.Grant{}, err
	}
	f.next++
	id := fmt.Sprintf("%s-%016x", role.SessionName, f.next)
	f.sessions[id] = 0
	f.shells = append(f.shells, fmt.Sprintf("terminal %v", terminal))
	return ssmproto.Grant{SessionID: id, StreamURL: "wss://shell", Target: command}, nil
}

// dialShell is Config.DialShell: a command is run by sh here, a shell echoes its lines.
func (f *fakeCloud) dialShell(_ context.Context, grant ssmproto.Grant) (ShellSession, error) {
	f.mu.Lock()
	err := f.refuse["dial shell"]
	f.mu.Unlock()
	if err != nil {
		f.ended(grant.SessionID)
		return nil, err
	}
	s := &fakeShell{end: func() { f.ended(grant.SessionID) }, sizes: make(chan ssmproto.Size, 8), signals: make(chan ssmproto.ControlCode, 8), closed: make(chan struct{})}
	s.out, s.program = io.Pipe()
	s.keys, s.typed = io.Pipe()
	s.tasks.Go(func() {
		if grant.Target == "" {
			s.echo()
			return
		}
		output, _ := exec.CommandContext(context.Background(), "sh", "-c", grant.Target).CombinedOutput()
		_, _ = s.program.Write(output)
		_ = s.program.Close()
	})
	return s, nil
}

// fakeShell is a Session Manager session.
type fakeShell struct {
	out     *io.PipeReader
	program *io.PipeWriter
	keys    *io.PipeReader
	typed   *io.PipeWriter
	sizes   chan ssmproto.Size
	signals chan ssmproto.ControlCode
	resized func() // if not nil: called while the session takes a size
	end     func()
	closed  chan struct{}
	once    sync.Once
	tasks   sync.WaitGroup
}

// echo repeats lines up to "exit" or the end of input that a terminal has a key for.
func (s *fakeShell) echo() {
	defer func() { _ = s.program.Close() }()
	var line []byte
	key := make([]byte, 1)
	for {
		if _, err := s.keys.Read(key); err != nil || key[0] == endOfInput {
			return
		}
		if line = append(line, key[0]); key[0] != '\n' {
			continue
		}
		if string(line) == "exit\n" {
			return
		}
		_, _ = fmt.Fprintf(s.program, "echo %s", line)
		line = nil
	}
}

func (s *fakeShell) Read(p []byte) (int, error)  { return s.out.Read(p) }
func (s *fakeShell) Write(p []byte) (int, error) { return s.typed.Write(p) }
func (s *fakeShell) Stderr() io.Reader           { return strings.NewReader("") }
func (s *fakeShell) ExitCode() (int, bool)       { return 0, false }

func (s *fakeShell) Resize(size ssmproto.Size) error {
	s.sizes <- size
	if s.resized != nil {
		s.resized()
	}
	return nil
}

func (s *fakeShell) Signal(code ssmproto.ControlCode) error {
	s.signals <- code
	return nil
}

func (s *fakeShell) Close() error {
	s.once.Do(func() {
		close(s.closed)
		_ = s.out.CloseWithError(net.ErrClosed)
		_ = s.program.CloseWithError(net.ErrClosed)
		_ = s.keys.CloseWithError(net.ErrClosed)
		s.tasks.Wait()
		s.end()
	})
	return nil
}

func (s *fakeShell) CloseNow() error { return s.Close() }
