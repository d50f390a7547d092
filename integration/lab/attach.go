package lab

import (
	"context"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
)

// Attach gives a machine that has no agent (OfflineInstance, SpareInstance, the twins) one whose port 22 is the login service at sshd, host:port. Of cfg, speed and
// quirks count; who and where the agent is comes from the lab. It returns when the agent is connected; Close takes it down with the rest.
// It is not for use at the same time as Close.
func (l *Lab) Attach(ctx context.Context, machine, sshd string, cfg agent.Config) error {
	cfg.Endpoint, cfg.InstanceID, cfg.Region = l.AWS.PlainURL(), machine, Region
	cfg.Credentials = agent.Credentials{AccessKeyID: instanceCredential.id, SecretAccessKey: instanceCredential.secret}
	cfg.PortMap = portMap(sshd)
	attached, err := agent.Start(ctx, cfg)
	if err != nil {
		return err
	}
	l.closers = append(l.closers, attached.Close)
	return l.AWS.WaitAgent(ctx, machine)
}
