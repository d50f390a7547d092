package gateway

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// Bounds of a session without a machine.
const (
	builtinTime     = 60 * time.Second // from open to close
	builtinRequests = 64               // pty-req, env and such before the command
)

// builtin serves a session on a connection that names no machine: ssh gateway [whoami|ls|help]. There is no shell and nothing of the gateway's host: the
// answer is text, and the session ends.
func (c *conn) builtin(channel ssh.NewChannel, p *proof) {
	stream, reqs, err := channel.Accept()
	if err != nil {
		return
	}
	defer func() { _ = stream.Close() }()
	ctx, cancel := context.WithTimeout(c.ctx, builtinTime)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = stream.Close() })
	defer stop()
	command, pty, ok := awaitCommand(reqs)
	c.tasks.Go(func() { ssh.DiscardRequests(reqs) }) // ends with the channel, which is closed below
	if !ok {
		return
	}
	out, status := c.answer(ctx, command, p)
	e := c.event(EventChannelRequest)
	who(&e, p.identity)
	e.ChannelType, e.Request, e.Detail = "session", "builtin", command
	c.srv.record(e)
	if pty { // the client's terminal is raw: it wants the carriage return, too
		out = strings.ReplaceAll(out, "\n", "\r\n")
	}
	var to io.Writer = stream
	if status != 0 {
		to = stream.Stderr()
	}
	if _, err := io.WriteString(to, out); err == nil {
		_, _ = stream.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
	}
}

// awaitCommand reads requests until shell or exec. Others are answered as a server without programs does: a terminal is fine, the rest is not known.
func awaitCommand(reqs <-chan *ssh.Request) (command string, pty, ok bool) {
	seen := 0
	for req := range reqs {
		if seen++; seen > builtinRequests {
			return "", false, false
		}
		switch req.Type {
		case "shell":
			_ = req.Reply(true, nil)
			return "help", pty, true
		case "exec":
			var exec struct{ Command string }
			if err := ssh.Unmarshal(req.Payload, &exec); err != nil {
				_ = req.Reply(false, nil)
				return "", false, false
			}
			_ = req.Reply(true, nil)
			return strings.TrimSpace(exec.Command), pty, true
		case "pty-req":
			pty = true
			_ = req.Reply(true, nil)
		default:
			_ = req.Reply(false, nil)
		}
	}
	return "", false, false
}

// answer gives the text of a built-in command and its exit status.
func (c *conn) answer(ctx context.Context, command string, p *proof) (string, uint32) {
	if p.identity.Grants.ForceCommand != "" {
		return "this key is bound to a command on a machine; name the machine in the login: ssh USER@MACHINE@GATEWAY\n", 1
	}
	switch command {
	case "help":
		return help(p), 0
	case "whoami":
		return whoami(p.identity), 0
	case "ls":
		return c.machines(ctx, p)
	}
	return fmt.Sprintf("unknown command %s; there are help, whoami and ls. To run it on a machine: ssh -J GATEWAY USER@MACHINE\n", printable(command, 100)), 127
}

func help(p *proof) string {
	return "hello " + p.identity.Person + `. This is a gateway to machines, it has no shell of its own.

  ssh -J GATEWAY ec2-user@i-0123456789abcdef0     a shell on a machine
  ssh ec2-user@i-0123456789abcdef0@GATEWAY        the same, for clients without -J
  ssh -N -L 5432:i-0123456789abcdef0:5432 GATEWAY a port of a machine
  ssh GATEWAY ls                                  the machines you may connect to
  ssh GATEWAY whoami                              who you are here
`
}

func whoami(id *authz.Identity) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s\n  by      %s %s\n", id.Person, id.Method, id.Fingerprint)
	if len(id.Groups) > 0 {
		fmt.Fprintf(&b, "  groups  %s\n", strings.Join(id.Groups, ", "))
	}
	if id.Source.IsValid() {
		fmt.Fprintf(&b, "  from    %s\n", id.Source)
	}
	return b.String()
}

// machines lists what policy lets the person connect to; what it does not, they are not told of.
func (c *conn) machines(ctx context.Context, p *proof) (string, uint32) {
	lister, ok := c.srv.cfg.Cloud.(Lister)
	if !ok {
		return "this gateway does not list machines\n", 1
	}
	all, err := lister.List(ctx)
	if err != nil {
		if errors.Is(err, context.DeadlineExceeded) {
			err = &authz.Refusal{Reason: authz.ReasonTimeout, Action: "listing the machines", Cause: err}
		}
		return c.text(err) + "\n", 1
	}
	var text bytes.Buffer
	table := tabwriter.NewWriter(&text, 0, 8, 2, ' ', 0)
	now := c.srv.rules.Load()
	for _, machine := range all {
		if _, err := c.srv.enter(now, route{identity: p.identity, named: machine.ID, target: machine}); err != nil {
			continue
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", machine.ID, orElse(machine.Name, "-"), orElse(machine.State, "-"), machine.Region, machine.Account)
	}
	_ = table.Flush() // into memory
	if text.Len() == 0 {
		return "no machine that you may connect to\n", 0
	}
	return text.String(), 0
}
