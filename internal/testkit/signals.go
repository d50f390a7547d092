package testkit

import (
	"os"
	"os/signal"
	"syscall"
)

// StopIgnoringSignals is for the TestMain of tests that end programs with signals. A process that is started with SIGHUP ignored (by nohup) or SIGINT (by "&" in
// a script) passes that on to every program it starts, and ssh keeps it: such a program never ends. A signal that this process catches, to ignore it itself, is
// one that its children die of.
func StopIgnoringSignals() {
	for _, s := range []os.Signal{os.Interrupt, syscall.SIGHUP} {
		if signal.Ignored(s) {
			signal.Notify(make(chan os.Signal, 1), s)
		}
	}
}
