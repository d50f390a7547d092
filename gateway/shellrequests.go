package gateway

import (
	"io"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// SendRequest is what the client asks of its session.
func (s *shellChannel) SendRequest(name string, _ bool, payload []byte) (bool, error) {
	if s.ctx.Err() != nil {
		return false, io.EOF
	}
	switch name {
	case "pty-req":
		return s.askTerminal(payload), nil
	case "window-change":
		return s.changeWindow(payload), nil
	case "shell", "exec":
		return s.start(&ssh.Request{Type: name, Payload: payload}), nil
	case "signal":
		return s.signal(payload), nil
	}
	return false, nil // env, above all: the machine's sshd is not there to judge it
}

func (s *shellChannel) askTerminal(payload []byte) bool {
	var terminal terminalRequest
	if err := ssh.Unmarshal(payload, &terminal); err != nil {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.running {
		return false
	}
	s.terminal = &terminal
	return true
}

func (s *shellChannel) changeWindow(payload []byte) bool {
	var now windowChange
	if err := ssh.Unmarshal(payload, &now); err != nil {
		return false
	}
	s.mu.Lock()
	if s.terminal != nil {
		s.terminal.Columns, s.terminal.Rows = now.Columns, now.Rows
	}
	s.mu.Unlock()
	if closedAlready(s.begun) {
		s.resize()
	}
	return true
}

// resize gives the program's terminal the size of the client's, where that is another.
func (s *shellChannel) resize() {
	s.resizing.Lock()
	defer s.resizing.Unlock()
	s.mu.Lock()
	terminal := s.terminal
	var size ssmproto.Size
	if terminal != nil {
		size = ssmproto.Size{Cols: terminal.Columns, Rows: terminal.Rows}
	}
	s.mu.Unlock()
	if size.Cols > 0 && size.Rows > 0 && size != s.size {
		s.size = size
		_ = s.session.Resize(size) // fails with the session
	}
}

// start begins the program.
func (s *shellChannel) start(req *ssh.Request) bool {
	run, ok := bridge.ReadProgram(req)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !ok || s.running {
		return false
	}
	s.running = true
	s.deaf = run.Request == "exec" && s.terminal == nil
	s.asked <- run
	return true
}

// signal passes on what a terminal has a key for; what is meant to end the program ends its session.
func (s *shellChannel) signal(payload []byte) bool {
	name, _ := bridge.FirstString(payload)
	if !s.awaitProgram() {
		return false
	}
	switch name {
	case "INT":
		return s.session.Signal(ssmproto.Interrupt) == nil
	case "QUIT":
		return s.session.Signal(ssmproto.Quit) == nil
	case "TSTP":
		return s.session.Signal(ssmproto.Suspend) == nil
	case "HUP", "TERM", "KILL":
		s.mu.Lock()
		s.killed = name
		s.mu.Unlock()
		_ = s.session.CloseNow()
		return true
	}
	return false
}

// markedOutput is the output of a program, without the mark behind it where there is one.
type markedOutput struct {
	to   io.Writer
	mark *ssmproto.ExitMark
}

// wrap gives what to run in place of a command, so that its exit status is told. Windows has no sh to do that.
func (m *markedOutput) wrap(command string, terminal bool, on *authz.Instance) string {
	if strings.Contains(on.Platform, "Windows") {
		return command
	}
	m.mark = ssmproto.NewExitMark(m.to)
	if terminal {
		return m.mark.WrapTerminal(command)
	}
	return m.mark.Wrap(command)
}

// Write passes output on.
func (m *markedOutput) Write(p []byte) (int, error) {
	if m.mark != nil {
		return m.mark.Write(p)
	}
	return m.to.Write(p)
}

func (m *markedOutput) flush() error {
	if m.mark == nil {
		return nil
	}
	return m.mark.Flush()
}
