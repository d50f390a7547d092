package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

const (
	person = "alice"
	osUser = "ec2-user"
)

// world is one condition, set up: the lab, ways to its machine, and gateways as they are asked for.
type world struct {
	condition
	lab      *lab.Lab
	bench    *bench
	dir      string
	lines    []*delayLine
	direct   *delayLine // in front of sshd, for plain ssh; one of the lines
	gateways map[string]*gatewayProcess
	pusher   *keyPusher
}

func startWorld(ctx context.Context, b *bench, c condition) (_ *world, err error) {
	why := lab.SSHDAvailable()
	if why != nil {
		fmt.Fprintf(os.Stderr, "bench: the embedded SSH server stands in for sshd: %v\n", why)
	}
	options := c.labOptions(why != nil)
	options.Logger = slog.New(slog.DiscardHandler)
	started, err := lab.Start(ctx, options)
	if err != nil {
		return nil, err
	}
	w := &world{condition: c, lab: started, bench: b, gateways: map[string]*gatewayProcess{}, dir: filepath.Join(b.dir, c.name)}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.close())
		}
	}()
	if err = os.Mkdir(w.dir, 0o700); err != nil {
		return nil, err
	}
	if w.direct, err = w.line(started.Main.Addr, c.rtt, 0); err != nil {
		return nil, err
	}
	w.pusher, err = newKeyPusher(ctx, started)
	return w, err
}

// line is a way to an address with that round trip and rate, for as long as the world lasts.
func (w *world) line(to string, rtt time.Duration, rate float64) (*delayLine, error) {
	line, err := startDelayLine(to, rtt/2, rate)
	if err == nil {
		w.lines = append(w.lines, line)
	}
	return line, err
}

func (w *world) close() error {
	var errs []error
	for _, g := range w.gateways {
		errs = append(errs, g.stop())
	}
	for _, line := range w.lines {
		errs = append(errs, line.Close())
	}
	if w.pusher != nil {
		errs = append(errs, w.pusher.cloud.Close())
	}
	return errors.Join(append(errs, w.lab.Close())...)
}

// keyPusher lets the person's key in, for the ways that do not push one themselves: plain ssh, and AWS's command line, whose users push it by another
// command. That command's time is not counted against it.
type keyPusher struct {
	cloud *awscloud.Cloud
	on    *authz.Instance
	key   ssh.PublicKey

	mu     sync.Mutex
	pushed time.Time
}

// pushAgain is well within the minute for which Instance Connect believes a key.
const pushAgain = 30 * time.Second

func newKeyPusher(ctx context.Context, l *lab.Lab) (*keyPusher, error) {
	// The SDK's credentials come from the environment, here as on a laptop.
	for _, variable := range l.ConnectEnviron(person) {
		name, value, _ := strings.Cut(variable, "=")
		if err := os.Setenv(name, value); err != nil {
			return nil, err
		}
	}
	text, err := os.ReadFile(l.UserKey(person) + ".pub")
	if err != nil {
		return nil, err
	}
	p := &keyPusher{}
	if p.key, _, _, _, err = ssh.ParseAuthorizedKey(text); err != nil {
		return nil, err
	}
	if p.cloud, err = awscloud.New(ctx, awscloud.Config{}); err != nil {
		return nil, err
	}
	if p.on, err = p.cloud.Resolve(ctx, lab.MainInstance); err != nil {
		return nil, errors.Join(err, p.cloud.Close())
	}
	return p, nil
}

// letIn makes sure that a login that begins within the next seconds finds its key. It is called outside of what is timed.
func (p *keyPusher) letIn(ctx context.Context) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if time.Since(p.pushed) < pushAgain {
		return nil
	}
	if err := p.cloud.PushKey(ctx, authz.Role{}, p.on, osUser, p.key); err != nil {
		return fmt.Errorf("push the key: %w", err)
	}
	p.pushed = time.Now()
	return nil
}
