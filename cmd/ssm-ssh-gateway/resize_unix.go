//go:build unix

package main

import (
	"os"
	"os/signal"
	"syscall"
)

// resizeHints says when the terminal may have another size.
func resizeHints() (hints <-chan os.Signal, stop func()) {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, syscall.SIGWINCH)
	return signals, func() { signal.Stop(signals) }
}
