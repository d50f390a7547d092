package bridge

import (
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// originalCommand is where a forced command finds what the person asked for (sshd(8), "command=").
const originalCommand = "SSH_ORIGINAL_COMMAND"

// internalSFTP is how certificates and keys force file transfer only (sshd_config(5), ForceCommand). It is a name for the subsystem, not a program.
const internalSFTP = "internal-sftp"

// mayHave asks about something beside the program. The session goes on without it, and stderr says why.
func (c *channel) mayHave(req *ssh.Request, action authz.Action) bool {
	err := c.bridge.cfg.Gate.Permit(action, "", 0)
	if err == nil {
		return true
	}
	c.refuse(req, "", err)
	c.tell(c.bridge.cfg.Text(err))
	_ = req.Reply(false, nil)
	return false
}

// refuse notes a request that is not passed on.
func (c *channel) refuse(req *ssh.Request, detail string, err error) {
	c.bridge.cfg.Log.Info("request refused", "channel", c.info.ID, "request", req.Type, "err", err)
	c.bridge.cfg.Watch.ChannelRequest(c.info, req.Type+RefusedSuffix, detail)
}

// note tells the audit of a request that is passed on.
func (c *channel) note(req *ssh.Request, detail string) {
	c.bridge.cfg.Watch.ChannelRequest(c.info, req.Type, detail)
}

// askPTY relays pty-req (RFC 4254 §6.2) with its modes untouched. Without a terminal the client says so itself and goes on.
func (c *channel) askPTY(req *ssh.Request) {
	term, _ := FirstString(req.Payload)
	if !c.bridge.cfg.Grants.PTY {
		c.refuse(req, term, notGranted("a terminal"))
		_ = req.Reply(false, nil)
		return
	}
	c.note(req, term)
	c.passUp(req)
}

// askEnv relays env; AcceptEnv of the machine's sshd decides. Who has a forced command cannot forge what it was forced from.
func (c *channel) askEnv(req *ssh.Request) {
	name, ok := FirstString(req.Payload)
	if !ok || name == originalCommand && c.bridge.cfg.Grants.ForceCommand != "" {
		c.refuse(req, name, notGranted("this variable"))
		_ = req.Reply(false, nil)
		return
	}
	c.note(req, name)
	c.passUp(req)
}

// askX11 relays x11-req. The mark is set before the request leaves: the machine's first x11 open may overtake the answer.
func (c *channel) askX11(req *ssh.Request) {
	if !c.mayHave(req, authz.ActionX11) {
		return
	}
	c.bridge.mu.Lock()
	c.bridge.x11Allowed = true
	c.bridge.mu.Unlock()
	c.note(req, "")
	c.passUp(req)
}

// askAgent relays the request to forward the agent. OpenSSH wants no answer to it, so a refusal shows on stderr only.
func (c *channel) askAgent(req *ssh.Request) {
	if !c.mayHave(req, authz.ActionAgentForward) {
		return
	}
	c.bridge.mu.Lock()
	c.bridge.agentAllowed = true
	c.bridge.mu.Unlock()
	c.note(req, "")
	c.passUp(req)
}

// Program is what a session is to run.
type Program struct {
	Request string // shell, exec or subsystem
	Command string // of exec; the name of a subsystem; empty for a shell
}

// ReadProgram parses shell, exec or subsystem (RFC 4254 §6.5).
func ReadProgram(req *ssh.Request) (Program, bool) {
	p := Program{Request: req.Type}
	if req.Type == "shell" {
		return p, true
	}
	var body struct{ Text string }
	if err := ssh.Unmarshal(req.Payload, &body); err != nil {
		return p, false
	}
	p.Command = body.Text
	return p, true
}

// payload is the request-specific part on the wire.
func (p Program) payload() []byte {
	if p.Request == "shell" {
		return nil
	}
	return ssh.Marshal(struct{ Text string }{p.Command})
}

// Action is what the policy calls it. scp and rsync run as commands, and are exec.
func (p Program) Action() authz.Action {
	switch {
	case p.Request == "shell":
		return authz.ActionShell
	case p.Request == "subsystem" && p.Command == "sftp":
		return authz.ActionSFTP
	}
	return authz.ActionExec
}

// forced is the program that a forced command puts in place of whatever was asked for. The subsystem takes no arguments, so that internal-sftp with some, such
// as -R for read-only, is refused: without them it would allow more than was meant.
func forced(command string) (Program, error) {
	if command == internalSFTP {
		return Program{Request: "subsystem", Command: "sftp"}, nil
	}
	if strings.HasPrefix(command, internalSFTP+" ") {
		return Program{}, &authz.Refusal{
			Reason: authz.ReasonNotPermitted, Action: string(authz.ActionSFTP), Detail: "the forced command has arguments for internal-sftp, which cannot be passed on",
		}
	}
	return Program{Request: "exec", Command: command}, nil
}

// askProgram treats shell, exec and subsystem. When the machine agrees, the client's data begins to flow.
func (c *channel) askProgram(req *ssh.Request) {
	asked, ok := ReadProgram(req)
	if !ok {
		_ = req.Reply(false, nil)
		return
	}
	run := asked
	force := c.bridge.cfg.Grants.ForceCommand
	if force != "" {
		var err error
		if run, err = forced(force); err != nil {
			c.refuseProgram(req, asked, err)
			return
		}
	}
	if err := c.bridge.cfg.Gate.Permit(run.Action(), "", 0); err != nil {
		c.refuseProgram(req, asked, err)
		return
	}
	if err := refuseMosh(run); err != nil {
		c.refuseProgram(req, asked, err)
		return
	}
	c.settleLane(run)
	if force != "" {
		c.passOriginal(asked)
	}
	c.bridge.cfg.Watch.ChannelRequest(c.info, run.Request, run.Command)
	agreed, err := c.target().ch.SendRequest(run.Request, req.WantReply, run.payload())
	_ = req.Reply(agreed && err == nil, nil)
	if err == nil && (agreed || !req.WantReply) {
		c.started()
	}
}

// passOriginal tells a forced command, and the audit, what was asked for. Most machines' AcceptEnv drops the variable; sshd's own way of setting it is not
// open to us.
func (c *channel) passOriginal(asked Program) {
	c.bridge.cfg.Watch.ChannelRequest(c.info, asked.Request+ReplacedSuffix, asked.Command)
	if asked.Command != "" {
		variable := struct{ Name, Value string }{originalCommand, asked.Command}
		_, _ = c.target().ch.SendRequest("env", false, ssh.Marshal(variable))
	}
}

// RefusedStatus is the exit status of a program that may not be run. It is what ssh itself uses for failures that are not the program's.
const RefusedStatus = 255

// refuseProgram plays a program that says why not. After a plain failure OpenSSH prints "exec request failed" and throws away what came before it on
// stderr, so the person would never learn the reason.
func (c *channel) refuseProgram(req *ssh.Request, asked Program, err error) {
	c.refuse(req, asked.Command, err)
	c.info.Cause = err
	_ = req.Reply(true, nil)
	c.tell(c.bridge.cfg.Text(err))
	_, _ = c.client.ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{RefusedStatus}))
	_ = c.client.ch.Close() // the client's answer to it ends the machine's half
}

// passSignal relays signal and break, which an audit wants to see.
func (c *channel) passSignal(req *ssh.Request) {
	name, _ := FirstString(req.Payload)
	if req.Type == "break" {
		name = ""
	}
	c.note(req, name)
	c.passUp(req)
}

// passExit relays how the program ended. It is not held until the output has gone: sshd may report the end of a program whose children write on.
func (c *channel) passExit(req *ssh.Request) {
	switch req.Type {
	case "exit-status":
		var body struct{ Status uint32 }
		if err := ssh.Unmarshal(req.Payload, &body); err == nil {
			c.info.ExitStatus = &body.Status
		}
	case "exit-signal":
		c.info.ExitSignal, _ = FirstString(req.Payload)
	}
	c.awaitAnswered()
	c.passDown(req)
	c.exitReported()
}

// awaitAnswered lets the answer to "exec" go before the end of a quick program. A server that reports an end without having agreed to a
// beginning is not waited for long.
func (c *channel) awaitAnswered() {
	if closedAlready(c.running) {
		return
	}
	limit := time.NewTimer(c.bridge.cfg.Limits.EOFHold)
	defer limit.Stop()
	select {
	case <-c.running:
	case <-c.clientEnded:
	case <-limit.C:
	}
}

// FirstString reads the string a payload begins with.
func FirstString(payload []byte) (string, bool) {
	var body struct {
		Text string
		Rest []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(payload, &body); err != nil {
		return "", false
	}
	return body.Text, true
}
