package main

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// TestNoGreeting: a port on which an SSH server should speak first, and nobody does, is given up, with the words for it.
func TestNoGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, machine := net.Pipe()
		in, typed := io.Pipe()
		defer func() { _ = typed.Close() }()
		go func() { _, _ = io.Copy(io.Discard, machine) }()
		began := time.Now()
		err := relay(context.Background(), awaitGreeting(far), stdio{in, io.Discard}, leastAhead)
		if !errors.Is(err, errNoGreeting) || time.Since(began) != greetingLimit {
			t.Errorf("%v after %v", err, time.Since(began))
		}
		o := connectOptions{target: "web-1", port: 22}
		if got := failedSession(o.portWords(err)).Error(); !strings.HasPrefix(got, "nothing answers on port 22 of web-1; check that the service") {
			t.Errorf("it reads %q", got)
		}
	})
}

// TestLateGreeting: one that speaks within the limit may take its time afterwards.
func TestLateGreeting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		far, machine := net.Pipe()
		in, typed := io.Pipe()
		defer func() { _ = typed.Close() }()
		go func() {
			time.Sleep(greetingLimit - time.Second)
			_, _ = io.WriteString(machine, "SSH-2.0-x\r\n")
			time.Sleep(time.Hour)
			_ = machine.Close()
		}()
		var out strings.Builder
		if err := relay(context.Background(), awaitGreeting(far), stdio{in, &out}, leastAhead); err != nil || out.String() != "SSH-2.0-x\r\n" {
			t.Errorf("%q and %v", out.String(), err)
		}
	})
}
