package gateway

import (
	"context"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/bridge"
)

// builtinTime bounds a session without a machine twice: from its open to the command, and from there to the end of the answer.
const builtinTime = 60 * time.Second

// Exit statuses of built-in commands, beside 0 and those of the shell's own habit.
const (
	statusFailed  = 1
	statusUsage   = 2
	statusUnknown = 127
)

// builtin serves a session on a connection that names no machine: ssh gateway [ls|whoami|sessions|help], or a choice of machines. There is no shell and nothing
// of the gateway's host.
func (c *conn) builtin(outer ssh.Conn, channel ssh.NewChannel, p *proof) {
	stream, reqs, err := channel.Accept()
	if err != nil {
		return
	}
	grants := p.identity.Grants
	f := newFoyer(stream, grants.PTY)
	defer f.leave()
	c.tasks.Go(func() { f.serve(reqs) }) // ends with the channel
	ctx, cancel := context.WithTimeout(c.ctx, builtinTime)
	defer cancel()
	run, ok := f.await(ctx)
	if !ok {
		return
	}
	e := c.event(EventChannelRequest)
	who(&e, p.identity)
	e.ChannelType, e.Request, e.Detail = "session", "builtin", run.Command
	c.srv.record(e)
	_, _, terminal := f.size()
	if run.Request == "shell" && terminal && grants.ForceCommand == "" {
		c.pick(outer, f, p)
		return
	}
	ctx, cancel = context.WithTimeout(c.ctx, builtinTime)
	defer cancel()
	stop := context.AfterFunc(ctx, f.leave)
	defer stop()
	f.give(c.answer(ctx, run, p))
}

// reply is what a built-in command says: data, everything else, and its exit status.
type reply struct {
	stdout, stderr string
	status         uint32
}

// give writes a reply and ends the session.
func (f *foyer) give(r reply) {
	_, _, terminal := f.size()
	for _, part := range []struct {
		to   io.Writer
		text string
	}{{f.stream, r.stdout}, {f.stream.Stderr(), r.stderr}} {
		if terminal { // the client's terminal is raw: it wants the carriage return, too
			part.text = strings.ReplaceAll(part.text, "\n", "\r\n")
		}
		if _, err := io.WriteString(part.to, part.text); err != nil {
			return
		}
	}
	f.exit(r.status)
}

// terminalLines is a sentence as a terminal in raw mode shows it, and any other program does not mind.
func terminalLines(sentence string) string {
	return strings.ReplaceAll(strings.ReplaceAll(strings.TrimRight(sentence, "\r\n"), "\r\n", "\n"), "\n", "\r\n") + "\r\n"
}

// answer carries out a built-in command. Without one it is ls: a client without a terminal cannot choose.
func (c *conn) answer(ctx context.Context, run bridge.Program, p *proof) reply {
	if p.identity.Grants.ForceCommand != "" {
		return reply{stderr: "this key is bound to a command on a machine; name the machine in the login: ssh USER@MACHINE@GATEWAY\n", status: statusFailed}
	}
	words := strings.Fields(run.Command)
	if len(words) == 0 {
		words = []string{"ls"}
	}
	asJSON, rest, wrong := readOptions(words[1:])
	known := map[string]struct {
		takes  bool // words beside options
		answer func() reply
	}{
		"ls":       {true, func() reply { return c.list(ctx, p, rest, asJSON) }},
		"whoami":   {false, func() reply { return whoami(p.identity, asJSON) }},
		"sessions": {false, func() reply { return c.srv.sessionsOf(p.identity.Person, asJSON) }},
		"help":     {false, func() reply { return reply{stdout: help(p)} }},
	}
	command, ok := known[words[0]]
	switch {
	case !ok:
		return reply{stderr: fmt.Sprintf("unknown command %s; there are help, ls, whoami and sessions. To run it on a machine: ssh -J GATEWAY USER@MACHINE\n",
			printable(run.Command, 100)), status: statusUnknown}
	case wrong != "":
		return reply{stderr: "unknown option " + printable(wrong, 100) + "; there is --json\n", status: statusUsage}
	case len(rest) > 0 && !command.takes:
		return reply{stderr: words[0] + " takes no " + printable(rest[0], 100) + "\n", status: statusUsage}
	}
	return command.answer()
}

// readOptions takes --json out of the words of a command; wrong is the first option that is none.
func readOptions(words []string) (asJSON bool, rest []string, wrong string) {
	for _, word := range words {
		switch {
		case word == "--json":
			asJSON = true
		case strings.HasPrefix(word, "-") && wrong == "":
			wrong = word
		default:
			rest = append(rest, word)
		}
	}
	return asJSON, rest, wrong
}
