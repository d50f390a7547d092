// Command bench measures the product against what it replaces, side by side: plain ssh, AWS's command line with its session-manager-plugin, and our ways in,
// all to the same sshd through the same emulated AWS in the same run. Every figure it prints is a ratio or is needed to read one; on a busy machine all sides
// suffer alike, because the sides take turns.
//
//	go run ./integration/bench -quick                      one line a row, in under three minutes
//	go run ./integration/bench -out docs/performance.md    everything, as a page
//
// The exit status says whether everything could be measured, not whether goals are met: those need a quiet machine and a reader.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	plan, out, err := parse(args)
	if err != nil {
		return err
	}
	b, err := newBench(ctx, plan)
	if err != nil {
		return err
	}
	err = b.run(ctx)
	if out != "" && ctx.Err() == nil {
		err = errors.Join(err, writeReport(out, b))
	}
	return errors.Join(err, b.close())
}

// parse reads the command line.
func parse(args []string) (p plan, out string, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	quick := flags.Bool("quick", false, "what has a goal, with smaller files and fewer rounds")
	only := flags.String("only", "", "measure only what matches this regular expression, as \"name condition\"")
	sessions := flags.Int("sessions", 0, "logins at once (default 200; 40 with -quick)")
	gateway := flags.String("gateway", "", "measure this ssm-ssh-gateway instead of one built from the tree")
	ways := flags.String("ways", "", "transfers by these ways only, beside plain ssh and the plugin: a regular expression of connect, inspected16k, passthrough, lanes1aes, lanes1 … (default all; with -quick those with goals)")
	profiles := flags.String("profile", "", "write profiles of the transfers into this directory; the program is then built with -tags profile")
	list := flags.Bool("list", false, "say what there is to measure, and measure nothing")
	flags.StringVar(&out, "out", "", "write the page, and the plot beside it, to this file")
	if err := flags.Parse(args); err != nil {
		return plan{}, "", err
	}
	p = fullPlan
	if *quick {
		p = quickPlan
	}
	if *sessions > 0 {
		p.sessions = *sessions
	}
	p.listOnly, p.gateway = *list, *gateway
	if p.only, err = regexp.Compile(*only); err != nil {
		return plan{}, "", fmt.Errorf("-only: %w", err)
	}
	if *ways != "" {
		if p.ways, err = regexp.Compile(*ways); err != nil {
			return plan{}, "", fmt.Errorf("-ways: %w", err)
		}
	}
	if *profiles != "" {
		if p.profiles, err = filepath.Abs(*profiles); err != nil {
			return plan{}, "", fmt.Errorf("-profile: %w", err)
		}
	}
	return p, out, nil
}
