package main

import (
	"context"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// open opens the session of the schedule and starts the client's readers and writers.
func (p *play) open(ctx context.Context) error {
	document, parameters := "", map[string][]string(nil)
	switch p.kind {
	case basicPort:
		document, parameters = "AWS-StartSSHSession", map[string][]string{"portNumber": {"22"}}
	case muxedPort:
		document, parameters = "AWS-StartPortForwardingSession", map[string][]string{"portNumber": {"5432"}, "localPortNumber": {"0"}}
	case command:
		words, err := p.script()
		if err != nil {
			return err
		}
		document, parameters = commandDocument, map[string][]string{"command": {words}}
	}
	grant, err := p.world.grant(ctx, p.machine, document, parameters)
	if err != nil {
		return err
	}
	p.session = grant.SessionID
	if p.kind == muxedPort {
		return p.openMux(ctx, grant)
	}
	s, err := ssmproto.DialShell(ctx, grant, p.options())
	if err != nil {
		return err
	}
	p.closers = append(p.closers, s.Close)
	p.tasks.Go(func() { p.read(s, p.down[0]) })
	if p.kind == command {
		p.exitCode = s.ExitCode
		p.tasks.Go(func() { p.read(s.Stderr(), p.down[1]) })
		return nil
	}
	p.tasks.Go(func() { p.write(s, p.up[0]) })
	return nil
}

func (p *play) openMux(ctx context.Context, grant ssmproto.Grant) error {
	c, err := ssmproto.Dial(ctx, grant, p.options())
	if err != nil {
		return err
	}
	m, err := ssmproto.NewMux(c)
	if err != nil {
		p.closers = append(p.closers, c.Close)
		return err
	}
	p.closers = append(p.closers, m.Close)
	for i := range p.up {
		s, err := m.Open(ctx)
		if err != nil {
			return err
		}
		p.tasks.Go(func() { p.read(s, p.down[i]) })
		p.tasks.Go(func() { p.write(s, p.up[i]) })
	}
	return nil
}

// trouble makes the events happen until the play is over. A connection that an event wants to cut may be cut already.
func (p *play) trouble(ctx context.Context, over <-chan struct{}) {
	began := time.Now()
	sleep := func(d time.Duration) {
		timer := time.NewTimer(d)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-over:
		case <-ctx.Done():
		}
	}
	faults := p.faults
	faults.FailResumes = 0
	spoil := func(change func(f *awsemu.Faults), d time.Duration) {
		spoiled := faults
		change(&spoiled)
		_ = p.world.aws.SetFaults(awsemu.Scope{Instance: p.machine}, spoiled) // cannot be wrong: it was right before
		sleep(d)
		_ = p.world.aws.SetFaults(awsemu.Scope{Instance: p.machine}, faults)
	}
	for _, e := range p.events {
		sleep(time.Until(began.Add(e.at)))
		select {
		case <-over:
			return
		default:
		}
		switch e.what {
		case cutClient:
			_ = p.world.aws.Cut(p.session, awsemu.SideClient)
		case cutAgent:
			_ = p.world.aws.Cut(p.session, awsemu.SideAgent)
		case bye:
			_ = p.world.aws.Bye(p.session)
		case stall:
			spoil(func(f *awsemu.Faults) { f.ToAgent.Stall, f.ToClient.Stall = true, true }, e.lasts)
		case expire:
			_ = p.world.aws.Bye(p.session)
			spoil(func(f *awsemu.Faults) { f.ExpireTokens = true }, e.lasts)
		case pauseClient:
			p.reading.Lock()
			sleep(e.lasts)
			p.reading.Unlock()
		case endSession:
			p.world.aws.End(p.session, "ended by the schedule")
		case restartAgent:
			_ = p.agent.Close()
			if a, err := p.world.startAgent(ctx, p.machine, p.quirks); err == nil {
				p.agent = a
			}
		}
	}
}
