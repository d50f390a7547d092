package instance

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"sync"
)

// program is what a session runs: a login shell or a command in one, on pipes or on a pty.
type program struct {
	cmd    *exec.Cmd
	stdin  io.Writer
	stdout io.Reader
	stderr io.Reader  // nil on a pty, where both are one
	files  []*os.File // our ends of the pipes, or the pty
	pty    *os.File   // nil on pipes

	mu    sync.Mutex
	ended bool // its process id may already be another's
}

// toGroup calls send with the id of the program's process group, unless the program has ended.
func (p *program) toGroup(send func(id int) error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return os.ErrProcessDone
	}
	return send(p.cmd.Process.Pid)
}

// startProgram starts the login shell, or command in it when that is not empty.
func startProgram(command, home string, env []string, pty *ptyRequest) (*program, error) {
	cmd := shellCommand(command)
	cmd.Dir, cmd.Env = home, env
	if pty != nil {
		return startOnPTY(cmd, pty)
	}
	return startOnPipes(cmd)
}

// startOnPipes uses pipes of its own: those of os/exec are closed when the program ends, with output of its children still in them.
func startOnPipes(cmd *exec.Cmd) (*program, error) {
	var ours, theirs []*os.File
	closeAll := func(files []*os.File) {
		for _, f := range files {
			_ = f.Close()
		}
	}
	for range 3 {
		r, w, err := os.Pipe()
		if err != nil {
			closeAll(append(ours, theirs...))
			return nil, err
		}
		if len(ours) == 0 { // stdin flows the other way
			r, w = w, r
		}
		ours, theirs = append(ours, r), append(theirs, w)
	}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs[0], theirs[1], theirs[2]
	cmd.SysProcAttr = ownGroup()
	err := cmd.Start()
	closeAll(theirs)
	if err != nil {
		closeAll(ours)
		return nil, err
	}
	return &program{cmd: cmd, stdin: ours[0], stdout: ours[1], stderr: ours[2], files: ours}, nil
}

// endOfInput closes the program's input. On a pty there is no end of input but the one that is typed.
func (p *program) endOfInput() {
	if p.pty == nil {
		_ = p.files[0].Close()
	}
}

func (p *program) waitStatus() exit {
	err := p.cmd.Wait()
	p.mu.Lock()
	p.ended = true
	p.mu.Unlock()
	var ended *exec.ExitError
	if err != nil && !errors.As(err, &ended) {
		return exit{code: 255}
	}
	return exitOf(p.cmd.ProcessState)
}

// killWith ends the program, and our reading of what its children may hold open, when ctx does.
func (p *program) killWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() {
		p.kill()
		p.release()
	})
}

func (p *program) release() {
	for _, f := range p.files {
		_ = f.Close()
	}
}
