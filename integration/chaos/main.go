// Command chaos plays random schedules of trouble against the data channel and compares what arrives with what was sent: in virtual time against a scripted
// service, which is the test TestChaos of ssmproto, and over real sockets through the emulated AWS and the agent. It ends with one line, the number of
// schedules and of failures, and fails if there was one. A failure names its seed, which plays the same schedule again.
//
//	go run ./integration/chaos -seconds 60            half of the time for each
//	go run ./integration/chaos -schedules 100 -real   over real sockets only
//	go run ./integration/chaos -seed 4711 -real       one schedule again
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(1)
	}
}

var errFailed = errors.New("not every schedule kept the promise")

// limits say how much is played. Without seconds it is schedules.
type limits struct {
	seed               uint64
	schedules, workers int
	time               time.Duration
}

func run(ctx context.Context, args []string, out io.Writer) error {
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	seconds := flags.Int("seconds", 0, "play for that long")
	schedules := flags.Int("schedules", 1, "play so many, where no time is given")
	seed := flags.Uint64("seed", 0, "the seed of the first schedule; 0 draws one")
	workers := flags.Int("workers", 4, "schedules at a time over real sockets")
	onlyReal := flags.Bool("real", false, "real sockets only")
	onlyVirtual := flags.Bool("virtual", false, "virtual time only")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *seed == 0 {
		*seed = rand.Uint64N(1<<48) + 1 //nolint:gosec // guards nothing
	}
	l := limits{seed: *seed, schedules: *schedules, workers: *workers, time: time.Duration(*seconds) * time.Second}
	if !*onlyReal && !*onlyVirtual {
		l.time /= 2
	}
	var all tally
	if !*onlyReal {
		t, err := playVirtual(ctx, l, out)
		if err != nil {
			return err
		}
		all.add(t)
	}
	if !*onlyVirtual {
		t, err := playReal(ctx, l, out)
		if err != nil {
			return err
		}
		all.add(t)
	}
	fmt.Fprintf(out, "%d schedules, %d failed\n", all.played, all.failed)
	if all.failed > 0 {
		return errFailed
	}
	return nil
}

// tally counts schedules.
type tally struct{ played, failed int }

func (t *tally) add(other tally) {
	t.played += other.played
	t.failed += other.failed
}
