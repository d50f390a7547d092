package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/metrics"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// assembly is a configuration turned into the parts of a gateway.
type assembly struct {
	cfg   *loadedConfig
	rules *judgement
	keys  *keyRing
	cloud *awscloud.Cloud
	audit *gateway.AuditWriter // nil without an audit log
	log   *slog.Logger

	metrics *metrics.Metrics

	auditFile *appendFile // nil where the audit log is no file of ours
}

// assemble builds everything, or says all that is wrong. What it made is to be closed.
func assemble(ctx context.Context, cfg *loadedConfig, log *slog.Logger) (_ *assembly, err error) {
	a := &assembly{cfg: cfg, log: log, metrics: metrics.New(currentVersion().Version)}
	defer func() {
		if err != nil {
			a.close(log)
		}
	}()
	rules, findings := judge(cfg)
	findings = append(findings, checkValues(cfg)...)
	if len(findings) > 0 {
		return nil, findingsError(findings)
	}
	a.rules = rules
	if a.keys, err = openKeyRing(cfg, log); err != nil {
		return nil, err
	}
	cloud := cloudConfig(cfg, log)
	cloud.OnCall = a.metrics.Called
	if a.cloud, err = awscloud.New(ctx, cloud); err != nil {
		return nil, err
	}
	return a, a.openAudit()
}

// openAudit opens the audit log for appending.
func (a *assembly) openAudit() error {
	switch a.cfg.AuditLog {
	case "":
		a.log.Warn("no audit log: set audit_log to keep a record of who reached what")
	case "-":
		a.audit = gateway.NewAuditWriter(os.Stdout, a.log)
	default:
		file, err := openAppendFile(a.cfg.resolve(a.cfg.AuditLog))
		if err != nil {
			return fmt.Errorf("audit_log: %w", err)
		}
		a.audit, a.auditFile = gateway.NewAuditWriter(file, a.log), file
	}
	return nil
}

// gatewayConfig is the assembly as the gateway wants it.
func (a *assembly) gatewayConfig() gateway.Config {
	cfg := gateway.Config{
		Cloud: a.cloud, Directory: a.rules.directory, Policy: a.rules.policy,
		HostKeys: a.keys.own, Names: []string{a.cfg.publicName()}, Issuer: a.keys.issuer, Verifier: a.keys.verifier,
		Limits: gatewayLimits(a.cfg.Limits), Ciphers: a.cfg.Ciphers, SSHPorts: a.cfg.SSHPorts, PassthroughOSUser: a.cfg.OSUser, AccountAliases: map[string]string{}, Log: a.log,
		DialPort: a.dialPort, DialShell: a.dialShell, UserCA: a.keys.userCA, ForwardedAgent: a.cfg.Targets.ForwardedAgent,
		SessionShell: a.cfg.Targets.SessionShell, SessionUser: a.cfg.Targets.SessionUser, KeepWarm: a.cfg.Session.keepWarm(),
		CutExpired: a.cfg.Limits.CutExpired, NoEarlyAnswers: a.cfg.Session.noEarlyAnswers(),
		ProgressAfter: a.cfg.Session.ProgressAfter.Duration,
	}
	for _, account := range a.cfg.Accounts {
		cfg.AccountAliases[account.ID] = account.Alias
	}
	var audit gateway.AuditSink
	if a.audit != nil {
		audit = a.audit
	}
	cfg.Audit = a.metrics.Watch(audit)
	return cfg
}

// dialPort opens the data channel of a session as the configuration tunes it.
func (a *assembly) dialPort(ctx context.Context, grant ssmproto.Grant, peerFirst bool) (net.Conn, error) {
	conn, err := ssmproto.DialPort(ctx, grant, a.sessionOptions(peerFirst))
	if lane, ok := conn.(metrics.Lane); ok {
		a.metrics.Track(lane)
	}
	return conn, err
}

// dialShell is dialPort for a session with a shell or a command.
func (a *assembly) dialShell(ctx context.Context, grant ssmproto.Grant) (gateway.ShellSession, error) {
	shell, err := ssmproto.DialShell(ctx, grant, a.shellOptions())
	if err != nil {
		return nil, err
	}
	a.metrics.Track(shell)
	return shell, nil
}

// shellOptions bound the silence of a machine, too, for which a port's session has the keepalives of SSH.
func (a *assembly) shellOptions() *ssmproto.Options {
	options := a.sessionOptions(true)
	limits := gatewayLimits(a.cfg.Limits).WithDefaults()
	options.PeerCheck, options.PeerTimeout = limits.Keepalive, limits.Silence()
	return options
}

func (a *assembly) sessionOptions(peerFirst bool) *ssmproto.Options {
	return &ssmproto.Options{
		Logger: a.log, WaitForPeer: peerFirst,
		MaxPayload: a.cfg.Session.MaxPayload, DiscoverPayload: a.cfg.Session.Discover, MessageRate: a.cfg.Session.MessageRate, ResumeFor: a.cfg.Session.ResumeFor.Duration,
	}
}

// gatewayLimits translates the configuration; what is not set takes the gateway's default.
func gatewayLimits(l limitsConfig) gateway.Limits {
	return gateway.Limits{
		StartupsBegin: l.MaxStartups.Begin, StartupsRate: l.MaxStartups.Rate, StartupsFull: l.MaxStartups.Full, StartupsPerSource: l.MaxStartupsPerSource,
		LoginGrace: l.LoginGrace.Duration, AuthTries: l.AuthTries, Connections: l.MaxConnections, ConnectionsPerPerson: l.MaxPerPerson,
		MachinesPerConnection: l.MaxMachines, ChannelsPerConnection: l.MaxChannels,
		LanesPerConnection: l.MaxLanes, LanesPerFile: l.MaxLanesPerFile, LanesPerPerson: l.MaxLanesPerPerson, LanesPerMachine: l.MaxLanesPerMachine,
		WarmLinks: l.MaxWarm, LaneIdle: l.LaneIdle.Duration, ConnectTimeout: l.ConnectTimeout.Duration,
		Keepalive: l.Keepalive.Duration, KeepaliveCount: l.KeepaliveCount,
	}
}

// cloudConfig is the configuration as awscloud wants it.
func cloudConfig(cfg *loadedConfig, log *slog.Logger) awscloud.Config {
	wanted := awscloud.Config{
		OnWait: tellWait,
		Region: cfg.AWS.Region, Regions: cfg.AWS.Regions, Profile: cfg.AWS.Profile, Aliases: cfg.Aliases, WholeRole: cfg.AWS.WholeRole,
		UseFIPS: cfg.AWS.FIPS, UseDualStack: cfg.AWS.DualStack,
		StartRate: awscloud.Rate{PerSecond: cfg.AWS.StartRate, Burst: cfg.AWS.StartBurst},
		PushRate:  awscloud.Rate{PerSecond: cfg.AWS.PushRate, Burst: cfg.AWS.PushBurst}, MaxQueue: cfg.AWS.MaxQueue.Duration, Logger: log,
	}
	if cfg.AWS.DNSTXT {
		wanted.LookupTXT = net.DefaultResolver.LookupTXT
	}
	for _, account := range cfg.Accounts {
		wanted.Accounts = append(wanted.Accounts, awscloud.Account{
			Alias: account.Alias, ID: account.ID, Regions: account.Regions, InventoryRole: account.InventoryRole, ExternalID: account.ExternalID,
			Profile: account.Profile, SSHDocument: account.SSHDocument, PortDocument: account.PortDocument,
			PortParameter: account.PortParameter, SSHFixedPort: account.SSHFixedPort,
		})
	}
	return wanted
}

// reload opens the audit log again, which may have been moved away, reads people and policies again and gives them to the server. On any finding these stay.
func (a *assembly) reload(server *gateway.Server) error {
	if a.auditFile != nil {
		if err := a.auditFile.reopen(); err != nil {
			a.log.Error("the audit log could not be opened again; the old file stays in use", "cause", err.Error())
		}
	}
	fresh := a.cfg
	if a.cfg.positions != nil { // from a file
		cfg, findings := loadConfig(a.cfg.path)
		if err := findingsError(findings); err != nil {
			return err
		}
		fresh = cfg
	}
	rules, findings := judge(fresh)
	if err := findingsError(findings); err != nil {
		return err
	}
	for _, name := range append(a.rules.directory.People(), rules.directory.People()...) { // who has left, too
		a.cloud.Forget(name)
	}
	a.rules = rules
	server.Reload(rules.directory, rules.policy)
	return nil
}

// close ends what assemble made, in the other order. Failures are logged: there is nobody left to act on them.
func (a *assembly) close(log *slog.Logger) {
	var errs []error
	if a.audit != nil {
		errs = append(errs, a.audit.Close())
	}
	if a.auditFile != nil {
		errs = append(errs, a.auditFile.Close())
	}
	if a.cloud != nil {
		errs = append(errs, a.cloud.Close())
	}
	if err := errors.Join(errs...); err != nil {
		log.Warn("closing", "cause", err.Error())
	}
}
