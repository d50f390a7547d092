//go:build profile && unix

package main

import (
	"bytes"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"syscall"
)

// A program built with -tags profile, and told a directory by SSM_SSH_GATEWAY_PROFILE, profiles itself from one SIGUSR1 to the next and then writes
// PID.allocs.pprof, PID.block.pprof, PID.mutex.pprof and, last, PID.cpu.pprof there. No shipped program contains this: integration/bench -profile builds it.
func init() {
	dir := os.Getenv("SSM_SSH_GATEWAY_PROFILE")
	if dir == "" {
		return
	}
	toggle := make(chan os.Signal, 1)
	signal.Notify(toggle, syscall.SIGUSR1)
	go func() { // lives as long as the process
		for {
			<-toggle
			var cpu bytes.Buffer
			runtime.SetBlockProfileRate(10_000) // one event in 10 µs of waiting
			runtime.SetMutexProfileFraction(10)
			if err := pprof.StartCPUProfile(&cpu); err != nil {
				fmt.Fprintln(os.Stderr, "profile:", err)
			}
			<-toggle
			pprof.StopCPUProfile()
			if err := writeProfiles(dir, cpu.Bytes()); err != nil {
				fmt.Fprintln(os.Stderr, "profile:", err)
			}
		}
	}()
}

func writeProfiles(dir string, cpu []byte) error {
	for _, kind := range []string{"allocs", "block", "mutex"} {
		var text bytes.Buffer
		if err := pprof.Lookup(kind).WriteTo(&text, 0); err != nil {
			return err
		}
		if err := writeProfile(dir, kind, text.Bytes()); err != nil {
			return err
		}
	}
	return writeProfile(dir, "cpu", cpu)
}

// writeProfile lets the file appear whole.
func writeProfile(dir, kind string, text []byte) error {
	path := filepath.Join(dir, fmt.Sprintf("%d.%s.pprof", os.Getpid(), kind))
	if err := os.WriteFile(path+".new", text, 0o600); err != nil {
		return err
	}
	return os.Rename(path+".new", path)
}
