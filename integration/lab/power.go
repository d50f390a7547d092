package lab

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
)

// nobodyListens is the address of a login service that is not there: connections are refused.
const nobodyListens = "127.0.0.1:1"

// host is what is behind a machine, as far as it has it, and what it takes to start that again.
type host struct {
	login *instance.Config // nil: nothing listens on port 22
	agent *agent.Config    // nil: Session Manager does not know it

	running []func() error // ends what runs, in the order of starting
}

// startMachine starts what is behind a machine for the first time. known has the keys that count there without being pushed.
func (l *Lab) startMachine(ctx context.Context, options Options, m machine, known instance.Config) error {
	h := &host{}
	if m.sshd {
		h.login = &instance.Config{
			ID: m.id, KeysURL: l.AWS.PlainURL() + "/_emulator/keys", OSUsers: []string{"ec2-user", "ubuntu"},
			TrustedUserCA: known.TrustedUserCA, AuthorizedKeys: known.AuthorizedKeys, MaxStartups: options.MaxStartups,
			Dir: filepath.Join(l.Dir, "machines", m.id), Embedded: options.Embedded || !m.real, Logger: options.Logger,
		}
	}
	if m.agent {
		cfg := options.Agent
		cfg.Logger = options.Logger
		h.agent = &cfg
	}
	l.hosts[m.id] = h
	l.closers = append(l.closers, h.powerOff)
	return l.PowerOn(ctx, m.id)
}

// PowerOn starts a machine of the lab that PowerOff has switched off, and returns when its agent is connected. Its host keys and files are those of before; its login
// service listens elsewhere on loopback, which nobody sees but who goes there without Session Manager. Not for use at the same time as PowerOff or Close.
func (l *Lab) PowerOn(ctx context.Context, machine string) error {
	h := l.hosts[machine]
	if h == nil || len(h.running) > 0 {
		return fmt.Errorf("machine %s is not one of the lab's that are off", machine)
	}
	sshd := nobodyListens
	if h.login != nil {
		started, err := instance.Start(*h.login)
		if err != nil {
			return err
		}
		h.running = append(h.running, started.Close)
		sshd = started.Addr
		if machine == MainInstance {
			l.Main = started
			if err := l.AWS.UpdateInstance(machine, func(i *awsemu.Instance) { i.Console = started.ConsoleText() }); err != nil {
				return err
			}
		}
	}
	if h.agent == nil {
		return nil
	}
	attached, err := l.attach(ctx, machine, sshd, *h.agent)
	if err != nil {
		return err
	}
	h.running = append(h.running, attached.Close)
	return l.AWS.WaitAgent(ctx, machine)
}

// PowerOff ends a machine's login service, all that runs in its sessions, and its agent, without a word to anybody beyond what the operating system says of
// connections whose program has gone. EC2 goes on to call the machine running, as it does of one that reboots.
func (l *Lab) PowerOff(machine string) error {
	h := l.hosts[machine]
	if h == nil {
		return fmt.Errorf("machine %s is not one of the lab's", machine)
	}
	return h.powerOff()
}

func (h *host) powerOff() error {
	var err error
	for i := len(h.running) - 1; i >= 0; i-- {
		err = errors.Join(err, h.running[i]())
	}
	h.running = nil
	return err
}

// portMap leads port 22 to the machine's login service; other ports are those of this machine.
func portMap(sshd string) func(string, int) string {
	return func(host string, port int) string {
		if port == 22 {
			return sshd
		}
		return net.JoinHostPort(host, strconv.Itoa(port))
	}
}
