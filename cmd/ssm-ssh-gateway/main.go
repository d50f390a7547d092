// Command ssm-ssh-gateway is an SSH server in front of AWS: ssh -J gateway ec2-user@i-… reaches the instance's own sshd through Session Manager,
// let in by EC2 Instance Connect, as the IAM role of the person who proved a key. It is also a ProxyCommand for one laptop (connect) and a lab
// that needs no AWS account (demo).
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"
)

// Exit codes besides 0. 255 is what ssh itself returns when it, rather than the remote command, has failed.
const (
	exitFailure     = 1
	exitUsage       = 2
	exitInterrupted = 130 // as shells have it: 128 and SIGINT
	exitSSH         = 255
)

// exitError ends the program with a code of its own; a nil Err means that everything has been said already.
type exitError struct {
	Code int
	Err  error
}

func (e *exitError) Error() string {
	if e.Err == nil {
		return fmt.Sprintf("exit status %d", e.Code)
	}
	return e.Err.Error()
}

func (e *exitError) Unwrap() error { return e.Err }

func main() {
	if calledAsPlugin(os.Args[0]) {
		os.Exit(runPlugin(context.Background(), os.Args[1:], stdio{os.Stdin, os.Stdout}, os.Stderr))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], stdio{os.Stdin, os.Stdout}, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and gives the exit code.
func run(ctx context.Context, args []string, local stdio, stderr io.Writer) int {
	root := newRootCommand()
	root.SetArgs(args)
	root.SetIn(local.in)
	root.SetOut(local.out)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	var exit *exitError
	if errors.As(err, &exit) {
		if exit.Code == exitSSH && ctx.Err() != nil { // what was under way did not fail, it was called off
			return exitInterrupted
		}
		if exit.Err != nil {
			_, _ = fmt.Fprintln(stderr, "ssm-ssh-gateway: "+exit.Err.Error())
		}
		return exit.Code
	}
	_, _ = fmt.Fprintln(stderr, "ssm-ssh-gateway: "+err.Error())
	return exitFailure
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "ssm-ssh-gateway",
		Short: "SSH to EC2 instances through Session Manager, for any SSH client",
		Long: `ssm-ssh-gateway is an SSH server in front of AWS. It knows people by SSH key or certificate, assumes the IAM role mapped to the person,
and reaches the instance's own sshd through Session Manager with a 60-second key from EC2 Instance Connect:

    ssh -J gateway ec2-user@i-0123456789abcdef0

Try it without an AWS account:

    ssm-ssh-gateway demo ssh ec2-user@i-0123456789abcdef0`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return &exitError{Code: exitUsage, Err: fmt.Errorf("%w\ntry '%s --help'", err, cmd.CommandPath())}
	})
	root.AddCommand(
		newServeCommand(), newConnectCommand(), newForwardCommand(), newShellCommand(), newExecCommand(), newLsCommand(), newLoginCommand(),
		newDemoCommand(), newCheckCommand(), newExplainCommand(),
		newKnownHostsCommand(), newSSHConfigCommand(), newUserCACommand(), newPinsCommand(), newHealthcheckCommand(), newVersionCommand(),
	)
	faultsOfUsage(root)
	return root
}

// faultsOfUsage gives wrong numbers of arguments the exit code of wrong flags, for a command and all below it.
func faultsOfUsage(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return &exitError{Code: exitUsage, Err: fmt.Errorf("%w\ntry '%s --help'", err, cmd.CommandPath())}
			}
			return nil
		}
	}
	for _, inner := range cmd.Commands() {
		faultsOfUsage(inner)
	}
}
