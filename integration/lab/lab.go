// Package lab is the outside world in one place: an emulated AWS, machines with the agent's side of Session Manager, people with keys, and the files that a
// gateway and an ssh client need to work with them. Tests put the real gateway in front of it, the demo puts one into the same process.
// It starts no gateway itself and never leaves loopback.
package lab

import (
	"cmp"
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

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/freeport"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
)

// Options choose the world. The zero value works.
type Options struct {
	// Embedded makes MainInstance the embedded SSH server; otherwise it is the system's sshd, where instance.RealAvailable says yes, and else Start fails.
	Embedded bool
	// Emulator is the emulator's configuration: delays, faults, TLS. Its accounts are the lab's.
	Emulator awsemu.Config
	// Agent is the agents' configuration: speed and quirks. Who and where they are is the lab's.
	Agent agent.Config
	// MaxPayload is what the gateway is told to send in one message, in bytes; 1024 when zero.
	MaxPayload int
	// KeepWarm is how long the gateway is told to keep a session for the next connection; off when zero, so that tests can count sessions.
	KeepWarm time.Duration
	// ProgressAfter is how long somebody waits for a machine until the gateway says so on standard error; 2 s when zero. Tests that compare
	// what is printed there want it never.
	ProgressAfter time.Duration
	// MaxStartups is how many unfinished logins the machines' sshd takes (instance.Config); any number when empty.
	MaxStartups string
	// Logger takes what the parts report. Optional.
	Logger *slog.Logger
}

// Lab is a running world. Its files are in Dir, which Close removes.
type Lab struct {
	Dir string
	// GatewayConfig is what `serve --config` takes; GatewayAddr, host:port, is where it is told to listen. Nothing listens there yet.
	GatewayConfig, GatewayAddr string
	// SSHConfig is alice's ssh_config (ssh -F), with the host gateway and ProxyJump for the machines.
	SSHConfig string
	// InstanceKnownHosts has MainInstance's own host keys, for ways in on which the client sees them.
	InstanceKnownHosts string
	// AWS is the emulator: its log of calls, its faults.
	AWS *awsemu.Server
	// Main is the machine behind MainInstance.
	Main *instance.Instance

	hosts         map[string]*host // by instance id
	maxPayload    int
	keepWarm      time.Duration
	progressAfter time.Duration
	closers       []func() error
	once          sync.Once
	err           error
}

// Start brings the world up: it returns when every agent is connected.
func Start(ctx context.Context, options Options) (*Lab, error) {
	if options.Logger == nil {
		options.Logger = slog.New(slog.DiscardHandler)
	}
	dir, err := os.MkdirTemp("", "ssm-ssh-gateway-lab-")
	if err != nil {
		return nil, err
	}
	l := &Lab{
		Dir: dir, hosts: map[string]*host{}, GatewayConfig: filepath.Join(dir, "config.toml"),
		maxPayload: options.MaxPayload, keepWarm: options.KeepWarm, progressAfter: cmp.Or(options.ProgressAfter, 2*time.Second),
		InstanceKnownHosts: filepath.Join(dir, "instance_known_hosts"),
	}
	l.SSHConfig = l.SSHConfigFor("alice")
	l.closers = append(l.closers, func() error { return os.RemoveAll(dir) })
	if err := l.start(ctx, options); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return l, nil
}

func (l *Lab) start(ctx context.Context, options Options) error {
	var err error
	if l.GatewayAddr, err = freeport.Address(); err != nil {
		return err
	}
	// Users of the machine go through this directory to their homes.
	if err := os.Chmod(l.Dir, 0o711); err != nil { //nolint:gosec // the secrets in it have modes of their own
		return err
	}
	people, err := newCrowd(filepath.Join(l.Dir, "people"))
	if err != nil {
		return err
	}
	hostCA, err := l.newAuthority("host_ca_ed25519_key")
	if err != nil {
		return err
	}
	userCA, err := l.newAuthority("user_ca_ed25519_key")
	if err != nil {
		return err
	}
	if err := l.startAWS(options); err != nil {
		return err
	}
	for _, m := range append(machines[:len(machines):len(machines)], nodes...) {
		known := instance.Config{}
		if m.trustsCA {
			known.TrustedUserCA = authorizedLine(userCA)
		}
		if m.knows != "" {
			known.AuthorizedKeys = []string{strings.TrimSpace(people.publicKeys[m.knows])}
		}
		if err := l.startMachine(ctx, options, m, known); err != nil {
			return fmt.Errorf("machine %s: %w", m.name, err)
		}
	}
	return errors.Join(l.writeGatewayConfig(people), l.writeClientFiles(people, hostCA, l.Main.HostKeys))
}

func (l *Lab) startAWS(options Options) error {
	world, err := account()
	if err != nil {
		return err
	}
	cfg := options.Emulator
	cfg.Accounts = []awsemu.Account{world}
	if cfg.Log == nil {
		cfg.Log = options.Logger
	}
	if l.AWS, err = awsemu.Start(cfg); err != nil {
		return err
	}
	l.closers = append(l.closers, l.AWS.Close)
	return nil
}

// SSHDAvailable says why the system's sshd cannot be MainInstance; nil if it can.
func SSHDAvailable() error { return instance.RealAvailable() }

// Close takes the world down, last part first, and removes its files.
func (l *Lab) Close() error {
	l.once.Do(func() {
		for i := len(l.closers) - 1; i >= 0; i-- {
			l.err = errors.Join(l.err, l.closers[i]())
		}
	})
	return l.err
}

// Environ is the environment that points the gateway at the emulated AWS, with the gateway's own credentials.
func (l *Lab) Environ() []string { return l.awsEnviron(gatewayCredential) }

// ConnectEnviron is the environment of a person's own laptop, for `connect`. Only alice has one.
func (l *Lab) ConnectEnviron(person string) []string { return l.awsEnviron(laptopCredential(person)) }

func (l *Lab) awsEnviron(c credential) []string {
	return append(c.environ(),
		"AWS_ENDPOINT_URL="+l.AWS.URL(), "AWS_REGION="+Region, "AWS_DEFAULT_REGION="+Region, "AWS_EC2_METADATA_DISABLED=true",
		"AWS_CONFIG_FILE="+os.DevNull, "AWS_SHARED_CREDENTIALS_FILE="+os.DevNull)
}

// UserKey is the private key file of a person; .pub and, for certificates, -cert.pub are beside it.
func (l *Lab) UserKey(person string) string { return filepath.Join(l.Dir, "people", person) }

// SSHConfigFor is the ssh_config of a person.
func (l *Lab) SSHConfigFor(person string) string { return filepath.Join(l.Dir, "ssh_config."+person) }

// newAuthority writes the key of an authority that the gateway will find in its state directory, so that clients and machines can know it before the gateway
// starts.
func (l *Lab) newAuthority(file string) (ssh.PublicKey, error) {
	signer, pem, err := newKeyPEM("authority of the lab")
	if err != nil {
		return nil, err
	}
	state := filepath.Join(l.Dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return nil, err
	}
	return signer.PublicKey(), os.WriteFile(filepath.Join(state, file), pem, 0o600)
}
