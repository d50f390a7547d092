package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/hostkeys"
)

// targetPatterns are the host names, in an ssh_config or known_hosts, that mean instances.
var targetPatterns = []string{"i-*", "mi-*"}

func newKnownHostsCommand() *cobra.Command {
	var configPath string
	var extra []string
	cmd := &cobra.Command{
		Use:   "known-hosts",
		Short: "Print the line for known_hosts that makes clients believe the gateway and every instance behind it",
		Long: `known-hosts prints one @cert-authority line for ~/.ssh/known_hosts (or /etc/ssh/ssh_known_hosts). With it StrictHostKeyChecking=yes needs no further key.
The authority is made if it does not exist yet.`,
		Example: `  ssm-ssh-gateway known-hosts --config config.toml >> ~/.ssh/known_hosts
  ssm-ssh-gateway known-hosts --config config.toml --pattern '*.prod'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, findings := loadConfig(configPath)
			if err := findingsError(findings); err != nil {
				return err
			}
			return printKnownHosts(cmd.OutOrStdout(), cfg, extra)
		},
	}
	cmd.Flags().StringVarP(&configPath, "config", "c", "", "configuration file")
	cmd.Flags().StringSliceVar(&extra, "pattern", nil, "further names of instances that people type, such as '*.prod'")
	_ = cmd.MarkFlagRequired("config")
	return cmd
}

func printKnownHosts(out io.Writer, cfg *loadedConfig, extra []string) error {
	authority, err := loadOrCreate(cfg.hostCAPath(), slog.New(slog.DiscardHandler))
	if err != nil {
		return err
	}
	issuer, err := hostkeys.NewIssuer(authority, nil)
	if err != nil {
		return err
	}
	patterns := append(append([]string{cfg.publicName()}, targetPatterns...), extra...)
	_, err = fmt.Fprintln(out, issuer.KnownHostsLine(patterns...))
	return err
}

func newUserCACommand() *cobra.Command {
	var configPath string
	cmd := &cobra.Command{
		Use:   "user-ca",
		Short: "Print the line that makes an instance trust the gateway's user CA",
		Long: `user-ca prints the public key of user_ca_key, making the key if it does not exist yet. On an instance that EC2 Instance Connect does not serve (a hybrid node,
an image without it), put the line into a file and name that in sshd_config:

  TrustedUserCAKeys /etc/ssh/ssm-ssh-gateway-ca.pub

A certificate of the gateway is for one user of the instance and lives two minutes. An AuthorizedPrincipalsFile, where there is one, has to name the user.`,
		Example: `  ssm-ssh-gateway user-ca --config config.toml > ssm-ssh-gateway-ca.pub`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, findings := loadConfig(configPath)
			if err := findingsError(findings); err != nil {
				return err
			}
			authority, err := openUserCA(cfg, slog.New(slog.DiscardHandler))
			switch {
			case err != nil:
				return err
			case authority == nil:
				return &exitError{Code: exitUsage, Err: fmt.Errorf("%s has no user_ca_key: name a file for it, such as state/user_ca_ed25519_key", configPath)}
			}
			_, err = fmt.Fprintln(cmd.OutOrStdout(), authority.TrustLine())
			return err
		},
	}
	cmd.Flags().StringVarP(&configPath, "config", "c", "", "configuration file")
	_ = cmd.MarkFlagRequired("config")
	return cmd
}

func newSSHConfigCommand() *cobra.Command {
	var configPath string
	var extra []string
	cmd := &cobra.Command{
		Use:   "ssh-config",
		Short: "Print the block for ~/.ssh/config that people paste",
		Example: `  ssm-ssh-gateway ssh-config --config config.toml >> ~/.ssh/config
  ssm-ssh-gateway ssh-config --config config.toml --pattern 'web-*'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, findings := loadConfig(configPath)
			if err := findingsError(findings); err != nil {
				return err
			}
			return printSSHConfig(cmd.OutOrStdout(), cfg, extra)
		},
	}
	cmd.Flags().StringVarP(&configPath, "config", "c", "", "configuration file")
	cmd.Flags().StringSliceVar(&extra, "pattern", nil, "further names of instances that people type, such as '*.prod'")
	_ = cmd.MarkFlagRequired("config")
	return cmd
}

// printSSHConfig names the gateway once, so that HostKeyAlias and ProxyJump agree with the @cert-authority line whatever the port.
func printSSHConfig(out io.Writer, cfg *loadedConfig, extra []string) error {
	port := "22"
	if len(cfg.Listen) > 0 {
		if _, p, err := net.SplitHostPort(cfg.Listen[0]); err == nil {
			port = p
		}
	}
	patterns := append(append([]string{}, targetPatterns...), extra...)
	_, err := fmt.Fprintf(out, `Host ssm-gateway
    HostName %[1]s
    Port %[2]s
    HostKeyAlias %[1]s
    # One login for many jumps, so that a security key is touched once:
    ControlMaster auto
    ControlPath ~/.ssh/control-%%C
    ControlPersist 10m

Host %[3]s
    ProxyJump ssm-gateway
    User ec2-user
`, cfg.publicName(), port, strings.Join(patterns, " "))
	return err
}

// publicName is how people call the gateway.
func (c *loadedConfig) publicName() string {
	if c.PublicName != "" {
		return c.PublicName
	}
	return "localhost"
}
