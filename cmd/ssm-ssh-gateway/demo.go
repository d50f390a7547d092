package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

func newDemoCommand() *cobra.Command {
	var sshd bool
	cmd := &cobra.Command{
		Use:   "demo [COMMAND [ARG]...]",
		Short: "Run the gateway in a lab of its own, with no AWS account",
		Long: `demo starts an emulated AWS on loopback, the instance's side of Session Manager, an instance, and the gateway in front of them; then it runs COMMAND.
ssh, scp and sftp get the lab's configuration by themselves; other commands find its path in DEMO_SSH_CONFIG. The exit status is the command's.
Without a command the lab stays up until interrupted, and says what to type.`,
		Example: `  ssm-ssh-gateway demo ssh ec2-user@i-0123456789abcdef0
  ssm-ssh-gateway demo scp file ec2-user@web-1:
  ssm-ssh-gateway demo sh -c 'rsync -e "ssh -F $DEMO_SSH_CONFIG" file ec2-user@web-1:'`,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runDemo(cmd.Context(), cmd.OutOrStdout(), args, !sshd)
		},
	}
	cmd.Flags().BoolVar(&sshd, "sshd", false, "use the system's sshd as the instance (Linux, as root) instead of the embedded server")
	cmd.Flags().SetInterspersed(false)
	return cmd
}

// runDemo starts the lab and a gateway in this process, runs one command against them, and takes everything down again.
func runDemo(ctx context.Context, out io.Writer, command []string, embedded bool) (err error) {
	if !embedded {
		if err := lab.SSHDAvailable(); err != nil {
			return fmt.Errorf("the system's sshd cannot be the instance: %w; leave --sshd out for the embedded one", err)
		}
	}
	// The lab outlives an interrupt: the command in the foreground gets the same signal and decides for itself.
	labCtx := context.WithoutCancel(ctx)
	started, err := lab.Start(labCtx, lab.Options{Embedded: embedded, KeepWarm: defaultKeepWarm, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return fmt.Errorf("starting the lab: %w", err)
	}
	defer func() { err = errors.Join(err, started.Close()) }()
	for _, variable := range started.Environ() {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			return err
		}
	}
	stop, err := serveInBackground(labCtx, started.GatewayConfig, filepath.Join(started.Dir, "gateway.log"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, stop()) }()
	if len(command) == 0 {
		describeDemo(out, started)
		<-ctx.Done()
		return nil
	}
	return runInDemo(command, started.SSHConfig)
}

// serveInBackground runs the gateway that serve would run. The function it gives stops it and waits.
func serveInBackground(ctx context.Context, configPath, logPath string) (stop func() error, err error) {
	cfg, findings := loadConfig(configPath)
	if len(findings) > 0 {
		return nil, errors.New(findings[0].String())
	}
	logFile, err := os.Create(logPath)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	ready, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- serve(ctx, cfg, serveOptions{log: logFile, ready: func() { close(ready) }})
	}()
	stop = func() error {
		cancel()
		return errors.Join(<-ended, logFile.Close())
	}
	select {
	case <-ready:
		return stop, nil
	case err := <-ended:
		cancel()
		return nil, errors.Join(err, logFile.Close())
	}
}

// sshPrograms are the commands that understand -F.
var sshPrograms = map[string]bool{"ssh": true, "scp": true, "sftp": true}

// runInDemo runs a command in the foreground and gives its exit status.
func runInDemo(command []string, sshConfig string) error {
	args := command[1:]
	if sshPrograms[command[0]] {
		args = append([]string{"-F", sshConfig}, args...)
	}
	// The child gets the terminal's interrupt itself and decides what to do; this process has it caught already (main) and only waits.
	child := exec.Command(command[0], args...)
	child.Stdin, child.Stdout, child.Stderr = os.Stdin, os.Stdout, os.Stderr
	child.Env = append(os.Environ(), "DEMO_SSH_CONFIG="+sshConfig)
	err := child.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return &exitError{Code: exit.ExitCode()}
	case errors.As(err, &exit):
		return &exitError{Code: exitSSH, Err: fmt.Errorf("%s: %w", command[0], err)}
	case errors.Is(err, exec.ErrNotFound):
		return &exitError{Code: 127, Err: fmt.Errorf("%s is not installed", command[0])}
	}
	return err
}

func describeDemo(out io.Writer, l *lab.Lab) {
	_, _ = fmt.Fprintf(out, `The lab is up: an emulated AWS, instances, and a gateway on %s. In another terminal:

    ssh  -F %[2]s ec2-user@i-0123456789abcdef0
    scp  -F %[2]s FILE ec2-user@web-1:
    sftp -F %[2]s ec2-user@web-1
    ssh  -F %[2]s ec2-user@i-0123456789abcdef0@gateway

The gateway's log and audit are in %[3]s. Interrupt (Ctrl-C) ends it all.
`, l.GatewayAddr, l.SSHConfig, l.Dir)
}
