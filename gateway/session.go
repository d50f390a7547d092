package gateway

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

// permitted asks the policy about something on the session, and tells the refused person why.
func (c *channel) permitted(req *ssh.Request, granted bool, action authz.Action, detail string) bool {
	err := c.bridge.cfg.gate.permit(action, "", 0)
	if !granted {
		err = notGranted(string(action))
	}
	if err == nil {
		return true
	}
	c.refuse(req, detail, err)
	c.tell(c.bridge.cfg.text(err))
	_ = req.Reply(false, nil)
	return false
}

// refuse notes a request that is not passed on.
func (c *channel) refuse(req *ssh.Request, detail string, err error) {
	c.bridge.cfg.log.Info("request refused", "channel", c.info.id, "request", req.Type, "err", err)
	c.bridge.cfg.watch.channelRequest(c.info, req.Type+refusedSuffix, detail)
}

// note tells the audit of a request that is passed on.
func (c *channel) note(req *ssh.Request, detail string) {
	c.bridge.cfg.watch.channelRequest(c.info, req.Type, detail)
}

// askPTY relays pty-req (RFC 4254 §6.2) with its modes untouched. Without a terminal the client says so itself and goes on.
func (c *channel) askPTY(req *ssh.Request) {
	term, _ := firstString(req.Payload)
	if !c.bridge.cfg.grants.PTY {
		c.refuse(req, term, notGranted("a terminal"))
		_ = req.Reply(false, nil)
		return
	}
	c.note(req, term)
	c.passUp(req)
}

// askEnv relays env; AcceptEnv of the machine's sshd decides. Who has a forced command cannot forge what it was forced from.
func (c *channel) askEnv(req *ssh.Request) {
	name, ok := firstString(req.Payload)
	if !ok || name == originalCommand && c.bridge.cfg.grants.ForceCommand != "" {
		c.refuse(req, name, notGranted("this variable"))
		_ = req.Reply(false, nil)
		return
	}
	c.note(req, name)
	c.passUp(req)
}

// askX11 relays x11-req. The mark is set before the request leaves: the machine's first x11 open may overtake the answer.
func (c *channel) askX11(req *ssh.Request) {
	if !c.permitted(req, c.bridge.cfg.grants.X11Forwarding, authz.ActionX11, "") {
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
	if !c.permitted(req, c.bridge.cfg.grants.AgentForwarding, authz.ActionAgentForward, "") {
		return
	}
	c.bridge.mu.Lock()
	c.bridge.agentAllowed = true
	c.bridge.mu.Unlock()
	c.note(req, "")
	c.passUp(req)
}

// program is what a session is to run.
type program struct {
	request string // shell, exec or subsystem
	command string // of exec; the name of a subsystem; empty for a shell
}

// readProgram parses shell, exec or subsystem (RFC 4254 §6.5).
func readProgram(req *ssh.Request) (program, bool) {
	p := program{request: req.Type}
	if req.Type == "shell" {
		return p, true
	}
	var body struct{ Text string }
	if err := ssh.Unmarshal(req.Payload, &body); err != nil {
		return p, false
	}
	p.command = body.Text
	return p, true
}

// payload is the request-specific part on the wire.
func (p program) payload() []byte {
	if p.request == "shell" {
		return nil
	}
	return ssh.Marshal(struct{ Text string }{p.command})
}

// action is what the policy calls it. scp and rsync run as commands, and are exec.
func (p program) action() authz.Action {
	switch {
	case p.request == "shell":
		return authz.ActionShell
	case p.request == "subsystem" && p.command == "sftp":
		return authz.ActionSFTP
	}
	return authz.ActionExec
}

// forced is the program that a forced command puts in place of whatever was asked for.
func forced(command string) program {
	if command == internalSFTP || strings.HasPrefix(command, internalSFTP+" ") {
		return program{request: "subsystem", command: "sftp"}
	}
	return program{request: "exec", command: command}
}

// askProgram treats shell, exec and subsystem. When the machine agrees, the client's data begins to flow.
func (c *channel) askProgram(req *ssh.Request) {
	asked, ok := readProgram(req)
	if !ok {
		_ = req.Reply(false, nil)
		return
	}
	run := asked
	force := c.bridge.cfg.grants.ForceCommand
	if force != "" {
		run = forced(force)
	}
	if !c.permitted(req, true, run.action(), asked.command) {
		return
	}
	if force != "" && asked.command != "" {
		// Usually refused by the machine's AcceptEnv; sshd's own way of passing it is not open to us.
		variable := struct{ Name, Value string }{originalCommand, asked.command}
		_, _ = c.target.ch.SendRequest("env", false, ssh.Marshal(variable))
	}
	c.bridge.cfg.watch.channelRequest(c.info, run.request, run.command)
	agreed, err := c.target.ch.SendRequest(run.request, req.WantReply, run.payload())
	_ = req.Reply(agreed && err == nil, nil)
	if err == nil && (agreed || !req.WantReply) {
		c.started()
	}
}

// passSignal relays signal and break, which an audit wants to see.
func (c *channel) passSignal(req *ssh.Request) {
	name, _ := firstString(req.Payload)
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
			c.info.exitStatus = &body.Status
		}
	case "exit-signal":
		c.info.exitSignal, _ = firstString(req.Payload)
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
	limit := time.NewTimer(c.bridge.cfg.limits.eofHold)
	defer limit.Stop()
	select {
	case <-c.running:
	case <-c.clientEnded:
	case <-limit.C:
	}
}

// firstString reads the string a payload begins with.
func firstString(payload []byte) (string, bool) {
	var body struct {
		Text string
		Rest []byte `ssh:"rest"`
	}
	if err := ssh.Unmarshal(payload, &body); err != nil {
		return "", false
	}
	return body.Text, true
}
