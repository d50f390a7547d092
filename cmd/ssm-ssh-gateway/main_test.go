package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// patience is how long anything may take before a test gives up on it. Nothing here measures time.
const patience = 60 * time.Second

// theLab is the one world of these tests; it starts with the first that needs it.
var theLab struct {
	once sync.Once
	lab  *lab.Lab
	err  error
}

// laptopLab gives the lab, and this process the environment of a laptop in it.
func laptopLab(t *testing.T) *lab.Lab {
	t.Helper()
	theLab.once.Do(func() {
		options := lab.Options{Embedded: true}
		options.Agent.Quirks.NoShellDelay, options.Agent.Quirks.Fast = true, true
		options.Agent.Shell = []string{"env", "PS1=" + prompt, "sh"}
		theLab.lab, theLab.err = lab.Start(context.Background(), options)
	})
	if theLab.err != nil {
		t.Fatal(theLab.err)
	}
	for _, variable := range theLab.lab.ConnectEnviron("alice") {
		name, value, _ := strings.Cut(variable, "=")
		t.Setenv(name, value)
	}
	return theLab.lab
}

// closeLab takes the lab down after the last test.
func closeLab() error {
	if theLab.lab == nil {
		return nil
	}
	return theLab.lab.Close()
}

// prompt is what the lab's shells show.
const prompt = "lab> "

// result is what a person sees of a command.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit status %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
}

// runHere runs a command line in this process.
func runHere(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if stdin == nil {
		stdin = strings.NewReader("")
	}
	var stdout, stderr bytes.Buffer
	code := run(ctx, args, stdio{stdin, &stdout}, &stderr)
	return result{stdout.String(), stderr.String(), code}
}

// nothingOpen checks that no session is left at AWS.
func nothingOpen(t *testing.T, l *lab.Lab) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		open := 0
		for _, session := range l.AWS.Sessions() {
			if session.Status != awsemu.StatusTerminated {
				open++
			}
		}
		if open == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d sessions are still open", open)
			return
		}
	}
}
