package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"go.uber.org/goleak"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// TestMain lets the scripts run this very program under its name, and looks for goroutines that outlive the tests.
func TestMain(m *testing.M) {
	testscript.Main(leakChecked{m}, map[string]func(){
		"ssm-ssh-gateway": func() { os.Exit(run(context.Background(), os.Args[1:], stdio{os.Stdin, os.Stdout}, os.Stderr)) },
		pluginName:        func() { os.Exit(runPlugin(context.Background(), os.Args[1:], stdio{os.Stdin, os.Stdout}, os.Stderr)) },
	})
}

type leakChecked struct{ m *testing.M }

// Run implements testscript.TestingM.
func (l leakChecked) Run() int {
	testkit.StopIgnoringSignals()
	code := l.m.Run()
	if err := closeLab(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// TestScripts runs testdata/script/*.txtar: what each command prints, and with which exit status.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: filepath.Join("testdata", "script"),
		Setup: func(env *testscript.Env) error {
			// Nothing of the machine's own AWS configuration, and no instance metadata.
			env.Setenv("AWS_CONFIG_FILE", os.DevNull)
			env.Setenv("AWS_SHARED_CREDENTIALS_FILE", os.DevNull)
			env.Setenv("AWS_EC2_METADATA_DISABLED", "true")
			env.Setenv("HOME", env.WorkDir)
			env.Setenv("XDG_CONFIG_HOME", filepath.Join(env.WorkDir, ".config"))
			return nil
		},
	})
}
