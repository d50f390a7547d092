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

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// patience is how long anything may take before a test gives up on it. Nothing here measures time.
const patience = testkit.Patience

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

// program is a command line at work in this process.
type program struct {
	stdout, stderr *testkit.Transcript
	interrupt      func()
	ended          chan int
}

// begin runs a command line until the test ends or the program does.
func begin(t *testing.T, stdin io.Reader, args ...string) *program {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{stdout: testkit.NewTranscript(), stderr: testkit.NewTranscript(), interrupt: cancel, ended: make(chan int, 1)}
	go func() { p.ended <- run(ctx, args, stdio{stdin, p.stdout}, p.stderr) }()
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("%s\nprinted: %s\nsaid: %s", strings.Join(args, " "), p.stdout.String(), p.stderr.String())
		}
		cancel()
	})
	return p
}

// end waits for the exit status.
func (p *program) end(t *testing.T) int {
	t.Helper()
	select {
	case code := <-p.ended:
		return code
	case <-time.After(patience):
		t.Fatal("the program does not end")
		return 0
	}
}

// nothingOpen checks that no session is left at AWS.
func nothingOpen(t *testing.T, l *lab.Lab) {
	t.Helper()
	for deadline := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		open := openSessions(l)
		if open == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Errorf("%d sessions are still open", open)
			return
		}
	}
}
