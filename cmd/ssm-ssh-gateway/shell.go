package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/spf13/cobra"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// endOfInput is what a terminal takes for the end of input when a line has not begun (termios VEOF).
const endOfInput = 0x04

func newShellCommand() *cobra.Command {
	aws := &laptop{}
	var alive keepAlive
	purpose := awscloud.Purpose{Reason: "ssm-ssh-gateway shell"}
	var parameters []string
	cmd := &cobra.Command{
		Use:   "shell TARGET",
		Short: "Open a shell through Session Manager itself, where there is no sshd to reach",
		Long: `shell opens the Session Manager shell of an instance, as the user that the account's preferences name (ssm-user otherwise). It needs no sshd, no key and no
gateway; there is no file transfer and no forwarding in it. Keys go to the instance as they are typed, so Ctrl-C interrupts what runs there.
Session Manager does not tell how a shell ended: the exit status is 0 when it ended by itself and 255 when the session failed.`,
		Example: `  ssm-ssh-gateway shell i-0123456789abcdef0
  ssm-ssh-gateway shell --profile prod web-1
  echo uptime | ssm-ssh-gateway shell web-1`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if purpose.Parameters, err = parseParameters(parameters); err != nil {
				return &exitError{Code: exitUsage, Err: err}
			}
			ctx, cancel := untilHangup(cmd.Context())
			defer cancel()
			session, end, err := openShell(ctx, aws, alive, args[0], func(*authz.Instance) (awscloud.Purpose, error) { return purpose, nil })
			if err != nil {
				return unlessSilent(err)
			}
			defer end()
			return relayShell(ctx, session, streamsOf(cmd))
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&purpose.Document, "document", "", "session document (default: the account's shell)")
	flags.StringArrayVar(&parameters, "parameter", nil, "NAME=VALUE for the document; may be repeated")
	aws.flags(flags)
	alive.flag(flags)
	return cmd
}

var errSilentEnd = errors.New("the session ended before anything was said")

// unlessSilent takes the end of a session that had nothing to say for the good end that it is.
func unlessSilent(err error) error {
	if errors.Is(err, errSilentEnd) {
		return nil
	}
	return err
}

// openShell starts a session on target that runs what choose says for it. end gives back everything, the session included.
func openShell(
	ctx context.Context, aws *laptop, alive keepAlive, target string, choose func(*authz.Instance) (awscloud.Purpose, error),
) (_ *ssmproto.Shell, end func(), err error) {
	cloud, err := aws.open(ctx)
	if err != nil {
		return nil, nil, failedSession(err)
	}
	defer func() {
		if err != nil {
			_ = cloud.Close()
			err = failedSession(err)
		}
	}()
	on, err := cloud.Resolve(ctx, target)
	if err != nil {
		return nil, nil, err
	}
	purpose, err := choose(on)
	if err != nil {
		return nil, nil, err
	}
	grant, err := cloud.StartSession(ctx, authz.Role{}, on, purpose)
	if err != nil {
		return nil, nil, err
	}
	session, err := ssmproto.DialShell(ctx, grant, alive.of(ssmproto.Options{WaitForPeer: true}))
	if endedSilently(err) {
		return nil, nil, &exitError{Code: exitSSH, Err: errSilentEnd}
	}
	if err != nil {
		return nil, nil, err
	}
	if session.SessionType() == ssmproto.SessionPort {
		_ = session.CloseNow()
		return nil, nil, fmt.Errorf("the document %s leads to a port and runs nothing; use connect or forward", purpose.Document)
	}
	aws.hush()
	return session, func() {
		_ = session.Close()
		_ = cloud.Close()
	}, nil
}

// shellStreams are the user's side of a shell or command. screen is what is measured for its size.
type shellStreams struct {
	in          io.Reader
	out, stderr io.Writer
	screen      io.Writer
}

func streamsOf(cmd *cobra.Command) shellStreams {
	return shellStreams{cmd.InOrStdin(), cmd.OutOrStdout(), cmd.ErrOrStderr(), cmd.OutOrStdout()}
}

// relayShell joins the user's streams with a shell on a terminal until the shell ends or ctx does.
func relayShell(ctx context.Context, session *ssmproto.Shell, user shellStreams) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { _ = session.Close() })
	defer stop()
	restore, err := makeRaw(user.in)
	if err != nil {
		return err
	}
	defer restore()
	go followSize(ctx, user.screen, session.Resize)
	go typeInto(session, user.in)
	return receive(ctx, session, user)
}

// typeInto gives what the user types to the session; the end of input is typed as well. It ends with the program where nobody types any more: a read
// of a terminal cannot be called off.
func typeInto(session *ssmproto.Shell, in io.Reader) {
	if _, err := io.Copy(session, in); err == nil {
		_, _ = session.Write([]byte{endOfInput})
	}
}

// receive copies output until the session ends, and says how it did. The end that ctx asks for is no fault.
func receive(ctx context.Context, session *ssmproto.Shell, user shellStreams) error {
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(user.stderr, session.Stderr())
		copied <- err
	}()
	_, err := io.Copy(user.out, session)
	if err != nil {
		_ = session.CloseNow() // nobody reads: the other copy has to end too
	}
	if failed := <-copied; err == nil {
		err = failed
	}
	if err == nil || ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
		return nil //nolint:nilerr // the end was ours
	}
	return failedSession(err)
}
