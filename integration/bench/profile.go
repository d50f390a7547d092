package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// profileEnv tells a program that was built with -tags profile where to write; cmd/ssm-ssh-gateway/profile.go has the other half.
const profileEnv = "SSM_SSH_GATEWAY_PROFILE"

// profileKinds are what such a program writes when it is told to stop, the last one last.
var profileKinds = []string{"allocs", "block", "mutex", "cpu"}

// buildTags are those that the gateway is built with.
func (p plan) buildTags() string {
	if p.profiles != "" {
		return "profile"
	}
	return ""
}

// profiled does something and writes profiles of what it meant for the process that carries the bytes of this way.
func (m *master) profiled(what string, do func() error) error {
	b := m.route.world.bench
	if b.profiles == "" || m.route.carrier == nil || m.route.name == pluginName {
		return do()
	}
	pid, err := m.route.carrier(m.cmd.Process.Pid)
	if err != nil {
		return err
	}
	return b.profiled(pid, fmt.Sprintf("%s-%s-%s", m.route.name, m.route.world.name, what), do)
}

// profiled takes profiles of process pid while do runs. They are called DIRECTORY/NAME.KIND.pprof.
func (b *bench) profiled(pid int, name string, do func() error) error {
	if err := toggleProfile(pid); err != nil {
		return fmt.Errorf("begin profiles of process %d: %w", pid, err)
	}
	if err := do(); err != nil {
		return err
	}
	if err := toggleProfile(pid); err != nil {
		return fmt.Errorf("end profiles of process %d: %w", pid, err)
	}
	written := func(kind string) string { return filepath.Join(b.profiles, fmt.Sprintf("%d.%s.pprof", pid, kind)) }
	last := written(profileKinds[len(profileKinds)-1])
	err := await(context.Background(), last, func() bool {
		_, err := os.Stat(last)
		return err == nil
	})
	for _, kind := range profileKinds {
		if err == nil {
			err = os.Rename(written(kind), filepath.Join(b.profiles, fmt.Sprintf("%s.%s.pprof", name, kind)))
		}
	}
	return err
}
