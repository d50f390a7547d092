package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"

	"github.com/spf13/cobra"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
)

func newCheckCommand() *cobra.Command {
	var configPath string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Report everything that is wrong with a configuration",
		Long: `check reads a configuration and every file it names (keys, revocation lists, policies) and prints each finding as file:line:col: what is wrong.
Nothing is started and AWS is not called. The exit status is 2 when there is any finding.`,
		Example: `  ssm-ssh-gateway check --config /etc/ssm-ssh-gateway/config.toml`,
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return check(cmd.Context(), cmd.OutOrStdout(), configPath)
		},
	}
	cmd.Flags().StringVarP(&configPath, "config", "c", "", "configuration file")
	_ = cmd.MarkFlagRequired("config")
	return cmd
}

func check(ctx context.Context, out io.Writer, path string) error {
	findings := findAll(ctx, path)
	for _, f := range findings {
		_, _ = fmt.Fprintln(out, f)
	}
	if len(findings) > 0 {
		return &exitError{Code: exitUsage, Err: fmt.Errorf("%d finding(s)", len(findings))}
	}
	_, err := fmt.Fprintf(out, "%s is fine\n", path)
	return err
}

// findAll gathers what is wrong with a configuration, its files and its AWS settings.
func findAll(ctx context.Context, path string) []finding {
	cfg, findings := loadConfig(path)
	if len(findings) > 0 {
		return findings
	}
	_, findings = judge(cfg)
	findings = append(findings, checkValues(cfg)...)
	findings = append(findings, checkKeyFiles(cfg)...)
	if len(findings) > 0 {
		return findings
	}
	cloud, err := awscloud.New(ctx, cloudConfig(cfg, slog.New(slog.DiscardHandler)))
	if err != nil {
		return []finding{cfg.at("aws", "%s", err)}
	}
	_ = cloud.Close()
	return nil
}
