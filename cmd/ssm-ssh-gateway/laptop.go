package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"strings"
	"sync/atomic"
	"syscall"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
)

// laptop is the AWS side of the commands that need no gateway: they use whatever credentials this machine has.
type laptop struct {
	region, profile string
	regions         []string    // where to look for machines; empty is region
	asking          atomic.Bool // the terminal may be used to ask for an MFA code
}

func (l *laptop) flags(flags *pflag.FlagSet) {
	flags.StringVar(&l.region, "region", "", "AWS region (default: the environment's)")
	flags.StringVar(&l.profile, "profile", "", "AWS profile (default: the environment's)")
}

// open reads credentials and region. What it gives is to be closed.
func (l *laptop) open(ctx context.Context) (*awscloud.Cloud, error) {
	l.asking.Store(true)
	return awscloud.New(ctx, awscloud.Config{
		Region: l.region, Regions: l.regions, Profile: l.profile, MFACode: l.askMFA, Logger: slog.New(slog.DiscardHandler),
	})
}

// untilHangup ends when ctx does, and when nobody is at the other end any more: ssh tells its ProxyCommand with SIGHUP at each of its ends. Who dies of that leaves
// a session open at AWS. Under nohup it stays ignored.
//
// SIGPIPE is taken as well, and thrown away: then writing to standard output that nobody reads, as an ssh that was killed leaves it, is an error like any other
// and no death. It must not end ctx, because the connection to AWS raises it, too, when it breaks, and that is resumed.
func untilHangup(ctx context.Context) (context.Context, context.CancelFunc) {
	broken := make(chan os.Signal, 1)
	signal.Notify(broken, syscall.SIGPIPE)
	stop := func() {}
	if !signal.Ignored(syscall.SIGHUP) {
		ctx, stop = signal.NotifyContext(ctx, syscall.SIGHUP)
	}
	return ctx, func() {
		stop()
		signal.Stop(broken)
	}
}

// hush ends questions, from when a session owns the terminal: an MFA code that AWS wants in the middle of it has to wait for the next start.
func (l *laptop) hush() { l.asking.Store(false) }

var errNoTerminal = errors.New("the profile needs an MFA code, and there is no terminal to ask on")

// askMFA asks on the terminal itself, because standard input may be the stream that is relayed.
func (l *laptop) askMFA() (string, error) {
	if !l.asking.Load() {
		return "", errNoTerminal
	}
	name := "/dev/tty"
	if runtime.GOOS == "windows" {
		name = "CONIN$"
	}
	terminal, err := os.OpenFile(name, os.O_RDWR, 0)
	if err != nil {
		return "", errNoTerminal
	}
	defer func() { _ = terminal.Close() }()
	return readMFA(os.Stderr, func() ([]byte, error) { return term.ReadPassword(int(terminal.Fd())) })
}

// readMFA asks once.
func readMFA(prompt io.Writer, read func() ([]byte, error)) (string, error) {
	_, _ = fmt.Fprint(prompt, "MFA code: ")
	code, err := read()
	_, _ = fmt.Fprintln(prompt)
	if err != nil {
		return "", fmt.Errorf("reading the MFA code: %w", err)
	}
	return strings.TrimSpace(string(code)), nil
}
