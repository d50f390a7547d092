//go:build !linux

package main

import (
	"errors"
	"os/exec"
	"time"
)

// dieWithParent has no counterpart outside Linux: there the contexts of the commands are all that ends them.
func dieWithParent(*exec.Cmd) {}

// killGroup leaves it to exec.CommandContext to end the command itself; what it started notices that its pipes are closed.
func killGroup(*exec.Cmd) {}

// processorTime cannot be had of another process.
func processorTime(int) (time.Duration, error) { return 0, errNoProc }

func toggleProfile(int) error { return errNoProfile }

var errNoProfile = errors.New("profiles are taken on Linux only")
