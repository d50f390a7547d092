package main

import (
	"context"
	"errors"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// interruptPatience is how long an interrupted command may take to end on the instance.
const interruptPatience = 5 * time.Second

// commandParameter is what AWS's documents for commands call the command.
const commandParameter = "command"

// execOptions say what to run and how.
type execOptions struct {
	document   string
	parameters []string
	terminal   bool
	alive      keepAlive
}

func newExecCommand() *cobra.Command {
	aws := &laptop{}
	o := execOptions{}
	cmd := &cobra.Command{
		Use:   "exec TARGET -- COMMAND [ARG]...",
		Short: "Run one command through Session Manager itself, and exit as it does",
		Long: `exec runs a command on an instance without sshd: the words are joined with spaces and given to sh, as ssh does.

Without --terminal the command has no terminal and no input (AWS-StartNonInteractiveCommand), and its output arrives when it has ended, standard error among it;
a document of your own with separateOutputStream, named by --document, keeps the two apart and shows them as they come. With --terminal the command has a
terminal and the input of this program, and shows its output at once.

The exit status is the command's; 255 when the session failed or did not tell. On Windows instances the command is given to the agent as it is, and
its exit status is told only by a document with separateOutputStream. An interrupt goes to the command.`,
		Example: `  ssm-ssh-gateway exec i-0123456789abcdef0 -- systemctl is-active sshd
  ssm-ssh-gateway exec web-1 -- 'df -h / | tail -1'
  ssm-ssh-gateway exec --terminal web-1 -- top
  ssm-ssh-gateway exec --document Corp-Command web-1 -- make`,
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error {
			words := args[1:]
			if words[0] == "--" {
				words = words[1:]
			}
			command := strings.Join(words, " ")
			if strings.TrimSpace(command) == "" {
				return &exitError{Code: exitUsage, Err: errors.New("no command given; write it behind the target, or use shell")}
			}
			return execute(cmd.Context(), aws, o, args[0], command, streamsOf(cmd))
		},
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false)
	flags.BoolVarP(&o.terminal, "terminal", "t", false, "give the command a terminal and input")
	flags.StringVar(&o.document, "document", "", "session document of your own, with a parameter named command")
	flags.StringArrayVar(&o.parameters, "parameter", nil, "NAME=VALUE for the document; may be repeated")
	aws.flags(flags)
	o.alive.flag(flags)
	return cmd
}

// purpose is the session that runs command on a machine, and what will tell the exit status and pass the output to out: nil leaves it to the document.
func (o *execOptions) purpose(on *authz.Instance, command string, out io.Writer) (awscloud.Purpose, *ssmproto.ExitMark, error) {
	parameters, err := parseParameters(o.parameters)
	if err != nil {
		return awscloud.Purpose{}, nil, &exitError{Code: exitUsage, Err: err}
	}
	if parameters == nil {
		parameters = map[string][]string{}
	}
	parameters[commandParameter] = []string{command}
	purpose := awscloud.Purpose{Document: o.document, Parameters: parameters, Reason: "ssm-ssh-gateway exec"}
	if o.document != "" {
		return purpose, nil, nil
	}
	purpose.Document = awscloud.CommandDocument
	if o.terminal {
		purpose.Document = awscloud.InteractiveDocument
	}
	if strings.Contains(on.Platform, "Windows") {
		return purpose, nil, nil
	}
	mark := ssmproto.NewExitMark(out)
	wrapped := mark.Wrap(command)
	if o.terminal {
		wrapped = mark.WrapTerminal(command)
	}
	parameters[commandParameter] = []string{wrapped}
	return purpose, mark, nil
}

// execute runs the command and ends as it does.
func execute(ctx context.Context, aws *laptop, o execOptions, target, command string, user shellStreams) error {
	ctx, release := untilHangup(ctx)
	defer release()
	var mark *ssmproto.ExitMark
	session, end, err := openShell(ctx, aws, o.alive, target, func(on *authz.Instance) (purpose awscloud.Purpose, err error) {
		purpose, mark, err = o.purpose(on, command, user.out)
		return purpose, err
	})
	switch {
	case err != nil && mark == nil:
		return unlessSilent(err) // the document does not tell
	case err != nil:
		return err
	}
	defer end()
	if mark != nil {
		user.out = mark
	}
	running, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stop := context.AfterFunc(ctx, func() { interrupt(running, session) })
	defer stop()
	if o.terminal {
		err = relayShell(running, session, user)
	} else {
		err = receive(running, session, user)
	}
	if mark != nil {
		err = errors.Join(err, mark.Flush())
	}
	if err != nil {
		return err
	}
	return exitAs(ctx, session, mark)
}

// interrupt asks the command to end, and ends the session of one that does not, until running ends.
func interrupt(running context.Context, session *ssmproto.Shell) {
	if session.Signal(ssmproto.Interrupt) == nil {
		limit := time.NewTimer(interruptPatience)
		defer limit.Stop()
		select {
		case <-limit.C:
		case <-running.Done():
			return
		}
	}
	_ = session.CloseNow()
}

// exitAs turns what was told of the command's end into this program's.
func exitAs(ctx context.Context, session *ssmproto.Shell, mark *ssmproto.ExitMark) error {
	code, known := session.ExitCode()
	if !known && mark != nil {
		code, known = mark.Code()
	}
	switch {
	case known && code == 0:
		return nil
	case known:
		return &exitError{Code: code}
	case ctx.Err() != nil:
		return &exitError{Code: exitInterrupted}
	case mark == nil:
		return nil // the document does not tell
	}
	return &exitError{Code: exitSSH, Err: errors.New("the session ended before the command told its exit status")}
}
