package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/referee"
)

// findPrograms builds AWS's plugin and ours, unless that is given, and looks for the rest.
func findPrograms(ctx context.Context, dir string, plan plan) (programs, error) {
	root, err := moduleRoot()
	if err != nil {
		return programs{}, err
	}
	p := programs{root: root, gateway: filepath.Join(dir, "ssm-ssh-gateway")}
	for _, name := range []string{"ssh", "scp", "rsync"} {
		if _, err := exec.LookPath(name); err != nil {
			return p, fmt.Errorf("%s is needed: run scripts/prepare-test", name)
		}
	}
	if plan.gateway != "" {
		// A copy has the name by which processes are found, whatever the program was called.
		err = copyProgram(plan.gateway, p.gateway)
	} else {
		err = p.buildGateway(ctx, plan.buildTags())
	}
	if err != nil {
		return p, err
	}
	if p.plugin, err = referee.Build(ctx); err != nil {
		return p, err
	}
	// The pinned one first: a shim of a version manager on the path would cost the incumbent time that is not its own.
	p.aws = filepath.Join(root, ".tools", "venv", "bin", "aws")
	if _, err := os.Stat(p.aws); err != nil {
		if p.aws, err = exec.LookPath("aws"); err != nil {
			return p, fmt.Errorf("the AWS command line is needed: run scripts/prepare-test")
		}
	}
	return p, nil
}

// buildGateway builds ours as make build does.
func (p programs) buildGateway(ctx context.Context, tags string) error {
	version, err := exec.CommandContext(ctx, "git", "-C", p.root, "describe", "--tags", "--always", "--dirty").Output()
	if err != nil {
		version = []byte("unknown") // a copy of the tree without its history
	}
	flags := "-s -w -X main.buildVersion=" + strings.TrimSpace(string(version))
	build := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", tags, "-ldflags", flags, "-o", p.gateway, "./cmd/ssm-ssh-gateway")
	build.Dir, build.Env, build.Stderr = p.root, append(os.Environ(), "CGO_ENABLED=0"), os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("build the gateway: %w", err)
	}
	return nil
}

func copyProgram(from, to string) error {
	program, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, program, 0o755)
}
