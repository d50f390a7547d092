package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"os/user"
	"path/filepath"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway"
)

const defaultDrainTimeout = 30 * time.Second

// serveOptions are what only the caller of serve decides.
type serveOptions struct {
	log   io.Writer
	ready func() // called once, when the gateway listens
}

func newServeCommand() *cobra.Command {
	var configPath string
	alone := onePerson{}
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run the gateway",
		Long: `serve runs the gateway, from a configuration file or, for one person on their own machine, without any: then whoever holds a key of --authorized-keys
uses the AWS credentials of the environment (profile, SSO, instance role).

SIGHUP reads people, keys, revocation lists and policies again; what is wrong with them is logged, and the old ones stay in force. It also opens the audit log again,
for whoever has moved it away.
SIGTERM or SIGINT stops accepting and lets sessions end within limits.drain_timeout; a second one cuts them.`,
		Example: `  ssm-ssh-gateway serve --config /etc/ssm-ssh-gateway/config.toml
  ssm-ssh-gateway serve --authorized-keys ~/.ssh/id_ed25519.pub --region eu-west-1`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := chooseConfig(configPath, alone)
			if err != nil {
				return err
			}
			return serve(cmd.Context(), cfg, serveOptions{log: cmd.ErrOrStderr()})
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&configPath, "config", "c", "", "configuration file (config.example.toml explains every key)")
	flags.StringVar(&alone.keys, "authorized-keys", "", "without a configuration file: public keys that may log in, as in authorized_keys")
	flags.StringVar(&alone.listen, "listen", "127.0.0.1:2222", "without a configuration file: where to listen")
	flags.StringVar(&alone.region, "region", "", "without a configuration file: AWS region (default: the environment's)")
	flags.StringVar(&alone.profile, "profile", "", "without a configuration file: AWS profile")
	flags.StringVar(&alone.stateDir, "state-dir", "", "without a configuration file: where keys and pins are kept (default: the user's configuration directory)")
	cmd.MarkFlagsMutuallyExclusive("config", "authorized-keys")
	return cmd
}

// onePerson is a start without a configuration file.
type onePerson struct{ keys, listen, region, profile, stateDir string }

// chooseConfig loads the file, or makes up the configuration of one person.
func chooseConfig(path string, alone onePerson) (*loadedConfig, error) {
	switch {
	case path != "":
		cfg, findings := loadConfig(path)
		return cfg, findingsError(findings)
	case alone.keys != "":
		return alone.config()
	}
	return nil, &exitError{Code: exitUsage, Err: errors.New(
		"nobody may log in yet: give --config FILE, or --authorized-keys ~/.ssh/id_ed25519.pub to start for yourself alone")}
}

func (o onePerson) config() (*loadedConfig, error) {
	name := "me"
	if current, err := user.Current(); err == nil {
		name = filepath.Base(filepath.ToSlash(current.Username))
	}
	keys, err := filepath.Abs(o.keys)
	if err != nil {
		return nil, err
	}
	state := o.stateDir
	if state == "" {
		base, err := os.UserConfigDir()
		if err != nil {
			return nil, fmt.Errorf("%w; say with --state-dir where to keep the gateway's keys", err)
		}
		state = filepath.Join(base, "ssm-ssh-gateway")
	}
	if state, err = filepath.Abs(state); err != nil {
		return nil, err
	}
	return &loadedConfig{path: "the command line", fileConfig: fileConfig{
		Listen: []string{o.listen}, PublicName: "localhost", StateDir: state,
		AWS:    awsConfig{Region: o.region, Profile: o.profile, AmbientRole: true},
		People: []personConfig{{Name: name, KeysFile: keys}},
	}}, nil
}

// serve runs the gateway until ctx ends, then drains it.
func serve(ctx context.Context, cfg *loadedConfig, options serveOptions) error {
	hangups := make(chan os.Signal, 1)
	signal.Notify(hangups, syscall.SIGHUP) // from here on: one that comes before we listen must not end the program
	defer signal.Stop(hangups)
	log := newLogger(cfg, options.log)
	parts, err := assemble(ctx, cfg, log)
	if err != nil {
		return err
	}
	defer parts.close(log)
	server, err := gateway.New(parts.gatewayConfig())
	if err != nil {
		return err
	}
	listeners, err := listen(ctx, cfg.Listen)
	if err != nil {
		return err
	}
	stopMetrics, err := serveMetrics(ctx, parts, server)
	if err != nil {
		closeAll(listeners)
		return err
	}
	defer stopMetrics()
	serving, cut := context.WithCancel(context.WithoutCancel(ctx))
	defer cut()
	var group errgroup.Group
	for _, listener := range listeners {
		log.Info("listening", "address", listener.Addr().String())
		group.Go(func() error { return server.Serve(serving, listener) })
	}
	stopReloads := reloadOnHangup(hangups, server, parts, log)
	defer stopReloads()
	if options.ready != nil {
		options.ready()
	}
	notifySystemd(log, daemon.SdNotifyReady)
	stopped := make(chan error, 1)
	go func() { stopped <- group.Wait() }()
	select {
	case err := <-stopped:
		return err
	case <-ctx.Done():
	}
	notifySystemd(log, daemon.SdNotifyStopping)
	drain(server, cfg, log)
	return <-stopped
}

// drain lets sessions end by themselves for a while. A second signal ends the while.
func drain(server *gateway.Server, cfg *loadedConfig, log *slog.Logger) {
	limit := cfg.Limits.DrainTimeout.Duration
	if limit == 0 {
		limit = defaultDrainTimeout
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	again := make(chan os.Signal, 1)
	signal.Notify(again, os.Interrupt, syscall.SIGTERM)
	defer signal.Stop(again)
	go func() {
		select {
		case <-again:
			cancel()
		case <-ctx.Done():
		}
	}()
	log.Info("stopping", "drain_timeout", limit.String())
	if err := server.Shutdown(ctx); err != nil {
		log.Warn("sessions were cut", "cause", err.Error())
	}
}

// reloadOnHangup reads people and policies again at each of hangups. The function it gives stops that and waits.
func reloadOnHangup(hangups <-chan os.Signal, server *gateway.Server, parts *assembly, log *slog.Logger) (stop func()) {
	quit, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		for {
			select {
			case <-hangups:
				notifySystemd(log, daemon.SdNotifyReloading)
				if err := parts.reload(server); err != nil {
					log.Error("reload refused; the old people and policies stay in force", "cause", err.Error())
				} else {
					log.Info("reloaded")
				}
				notifySystemd(log, daemon.SdNotifyReady)
			case <-quit:
				return
			}
		}
	}()
	return func() {
		close(quit)
		<-ended
	}
}

// listen opens all addresses or none.
func listen(ctx context.Context, addresses []string) ([]net.Listener, error) {
	if len(addresses) == 0 {
		addresses = []string{"127.0.0.1:2222"}
	}
	var listeners []net.Listener
	for _, address := range addresses {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", address)
		if err != nil {
			closeAll(listeners)
			return nil, fmt.Errorf("cannot listen on %s: %w", address, err)
		}
		listeners = append(listeners, listener)
	}
	return listeners, nil
}

func closeAll(listeners []net.Listener) {
	for _, listener := range listeners {
		_ = listener.Close()
	}
}

// notifySystemd tells the service manager, where there is one, how far we are (sd_notify(3)).
func notifySystemd(log *slog.Logger, state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		log.Warn("cannot notify the service manager", "cause", err.Error())
	}
}
