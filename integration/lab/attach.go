package lab

import (
	"context"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
)

// Attach gives a machine that has no agent (OfflineInstance, SpareInstance, the twins) one whose port 22 is the login service at sshd, host:port. Of cfg, speed and
// quirks count; who and where the agent is comes from the lab. It returns when the agent is connected; Close takes it down with the rest.
// It is not for use at the same time as Close.
func (l *Lab) Attach(ctx context.Context, machine, sshd string, cfg agent.Config) error {
	attached, err := l.attach(ctx, machine, sshd, cfg)
	if err != nil {
		return err
	}
	l.closers = append(l.closers, attached.Close)
	return l.AWS.WaitAgent(ctx, machine)
}

// attach starts an agent that has the lab's answers to who and where it is. It outlives ctx, which may be that of a part of a test.
func (l *Lab) attach(ctx context.Context, machine, sshd string, cfg agent.Config) (*agent.Agent, error) {
	cfg.Endpoint, cfg.InstanceID, cfg.Region = l.AWS.PlainURL(), machine, Region
	cfg.Credentials = agent.Credentials{AccessKeyID: instanceCredential.id, SecretAccessKey: instanceCredential.secret}
	cfg.PortMap = portMap(sshd)
	return agent.Start(context.WithoutCancel(ctx), cfg)
}
