package instance

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"sync"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

// session is one session channel: requests prepare it, then shell, exec or subsystem start what it carries.
type session struct {
	conn    *connection
	ssh     *ssh.ServerConn
	channel ssh.Channel
	home    string

	env     []string
	pty     *ptyRequest
	agent   *agentSocket
	program *program
	started bool
	wait    sync.WaitGroup
}

// ptyRequest is RFC 4254 §6.2. The modes are left as the system sets them.
type ptyRequest struct {
	Term                         string
	Columns, Rows, Width, Height uint32
	Modes                        string
}

type windowChange struct{ Columns, Rows, Width, Height uint32 }

// maxEnv bounds what a client may put into the environment.
const maxEnv = 64

func (c *connection) serveSession(conn *ssh.ServerConn, open ssh.NewChannel) {
	channel, reqs, err := open.Accept()
	if err != nil {
		return
	}
	s := &session{conn: c, ssh: conn, channel: channel, home: filepath.Join(c.server.cfg.Dir, "home", conn.User())}
	for req := range reqs {
		ok := s.request(req)
		if req.WantReply {
			_ = req.Reply(ok, nil)
		}
		s.start(req.Type, ok)
	}
	s.end()
}

// request judges one request. What is to run is prepared here and started after the reply, so that no output overtakes it.
func (s *session) request(req *ssh.Request) bool {
	switch req.Type {
	case "env":
		return s.setEnv(req.Payload)
	case "pty-req":
		return s.wantPTY(req.Payload)
	case "window-change":
		var size windowChange
		return ssh.Unmarshal(req.Payload, &size) == nil && s.program != nil && s.program.resize(size) == nil
	case "auth-agent-req@openssh.com":
		return s.wantAgent()
	case "signal":
		var signal struct{ Name string }
		return ssh.Unmarshal(req.Payload, &signal) == nil && s.program != nil && s.program.signal(signal.Name) == nil
	case "shell":
		return s.prepare("")
	case "exec":
		var command struct{ Line string }
		return ssh.Unmarshal(req.Payload, &command) == nil && s.prepare(command.Line)
	case "subsystem":
		var subsystem struct{ Name string }
		ok := ssh.Unmarshal(req.Payload, &subsystem) == nil && subsystem.Name == "sftp" && !s.started
		s.started = s.started || ok
		return ok
	default:
		return false
	}
}

func (s *session) start(request string, accepted bool) {
	if !accepted {
		return
	}
	switch request {
	case "shell", "exec":
		s.wait.Go(s.runProgram)
	case "subsystem":
		s.wait.Go(s.runSFTP)
	}
}

// end follows the client's close of the channel.
func (s *session) end() {
	if s.program != nil {
		s.program.hangUp()
	}
	_ = s.channel.Close()
	s.wait.Wait()
	if s.agent != nil {
		s.agent.close()
	}
}

func (s *session) setEnv(payload []byte) bool {
	var env struct{ Name, Value string }
	if ssh.Unmarshal(payload, &env) != nil || s.started || len(s.env) >= maxEnv {
		return false
	}
	if env.Name != "LANG" && !strings.HasPrefix(env.Name, "LC_") { // AcceptEnv of the real instance
		return false
	}
	s.env = append(s.env, env.Name+"="+env.Value)
	return true
}

func (s *session) wantPTY(payload []byte) bool {
	var want ptyRequest
	if ssh.Unmarshal(payload, &want) != nil || s.started || s.pty != nil || !ptySupported {
		return false
	}
	s.pty = &want
	return true
}

func (s *session) wantAgent() bool {
	if s.started || s.agent != nil {
		return false
	}
	agent, err := s.conn.listenAgent(s.ssh)
	if err != nil {
		s.conn.log.Debug("agent forwarding", "err", err)
		return false
	}
	s.agent = agent
	return true
}

func (s *session) prepare(command string) bool {
	if s.started {
		return false
	}
	env := append(loginEnv(s.ssh, s.home), s.env...)
	if s.agent != nil {
		env = append(env, "SSH_AUTH_SOCK="+s.agent.path)
	}
	program, err := startProgram(command, s.home, env, s.pty)
	if err != nil {
		s.conn.log.Debug("start program", "err", err)
		return false
	}
	s.program, s.started = program, true
	return true
}

// runProgram carries the program's streams. The status goes out when the program ends, as sshd does it, though its children may still write:
// the channel closes when nobody holds its output any more.
func (s *session) runProgram() {
	var output, status sync.WaitGroup
	stop := s.program.killWith(s.conn.ctx)
	defer stop()
	s.wait.Go(func() {
		_, _ = io.Copy(s.program.stdin, s.channel)
		s.program.endOfInput()
	})
	output.Go(func() { _, _ = io.Copy(s.channel, s.program.stdout) })
	if s.program.stderr != nil {
		output.Go(func() { _, _ = io.Copy(s.channel.Stderr(), s.program.stderr) })
	}
	status.Go(func() { s.sendStatus(s.program.waitStatus()) })
	status.Wait()
	output.Wait()
	_ = s.channel.CloseWrite()
	_ = s.channel.Close()
	s.program.release()
}

func (s *session) runSFTP() {
	server, err := sftp.NewServer(s.channel, sftp.WithServerWorkingDirectory(s.home))
	if err != nil {
		s.conn.log.Debug("sftp", "err", err)
		_ = s.channel.Close()
		return
	}
	code := 0
	if err := server.Serve(); err != nil && !errors.Is(err, io.EOF) {
		s.conn.log.Debug("sftp", "err", err)
		code = 1
	}
	s.sendStatus(exit{code: code})
	_ = s.channel.CloseWrite()
	_ = server.Close()
}

// exit is how a program ended: by itself with a code, or by a signal, named without SIG.
type exit struct {
	code   int
	signal string
	core   bool
}

func (s *session) sendStatus(e exit) {
	if e.signal != "" {
		_, _ = s.channel.SendRequest("exit-signal", false, ssh.Marshal(&struct {
			Signal  string
			Core    bool
			Message string
			Lang    string
		}{Signal: e.signal, Core: e.core}))
		return
	}
	_, _ = s.channel.SendRequest("exit-status", false, ssh.Marshal(&struct{ Code uint32 }{uint32(e.code)}))
}

// loginEnv is the environment of a login without PAM.
func loginEnv(conn *ssh.ServerConn, home string) []string {
	env := append(systemEnv(), "HOME="+home, "USER="+conn.User(), "LOGNAME="+conn.User(), "SHELL="+loginShell())
	from, to := splitAddr(conn.RemoteAddr()), splitAddr(conn.LocalAddr())
	return append(env, fmt.Sprintf("SSH_CLIENT=%s %s", from, to[strings.IndexByte(to, ' ')+1:]), fmt.Sprintf("SSH_CONNECTION=%s %s", from, to))
}
