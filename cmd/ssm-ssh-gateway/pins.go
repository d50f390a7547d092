package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/hostkeys"
)

func newPinsCommand() *cobra.Command {
	var configPath string
	cmd := &cobra.Command{
		Use:   "pins",
		Short: "Show, add and forget the host keys of instances that the gateway believes",
		Long: `An instance's host keys are pinned by account/region/id when they are first believed. An instance that shows another key afterwards is refused; if it was
rebuilt under the same id, forget its old key. These commands work beside a running gateway.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.PersistentFlags().StringVarP(&configPath, "config", "c", "", "configuration file")
	_ = cmd.MarkPersistentFlagRequired("config")
	open := func() (*hostkeys.FileStore, error) {
		cfg, findings := loadConfig(configPath)
		if err := findingsError(findings); err != nil {
			return nil, err
		}
		return hostkeys.NewFileStore(cfg.stateFile(pinsFile)), nil
	}
	cmd.AddCommand(newPinsListCommand(open), newPinsRemoveCommand(open), newPinsAddCommand(open))
	return cmd
}

type openPins func() (*hostkeys.FileStore, error)

func newPinsListCommand(open openPins) *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List what is pinned", Args: cobra.NoArgs,
		Example: `  ssm-ssh-gateway pins list -c config.toml`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			store, err := open()
			if err != nil {
				return err
			}
			pins, err := store.List(cmd.Context())
			if err != nil {
				return err
			}
			return printPins(cmd.OutOrStdout(), pins)
		},
	}
}

func printPins(out io.Writer, pins []hostkeys.Pin) error {
	table := tabwriter.NewWriter(out, 0, 4, 2, ' ', 0)
	for _, pin := range pins {
		for _, key := range pin.PublicKeys() {
			_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", pin.Place, key.Type(), ssh.FingerprintSHA256(key), pin.Learned, pin.At.Format("2006-01-02 15:04:05Z07:00"))
		}
	}
	return table.Flush()
}

func newPinsRemoveCommand(open openPins) *cobra.Command {
	return &cobra.Command{
		Use: "rm ACCOUNT/REGION/ID", Aliases: []string{"forget"}, Short: "Forget the keys of an instance, so that the next ones it shows are believed anew", Args: cobra.ExactArgs(1),
		Example: `  ssm-ssh-gateway pins rm -c config.toml 111122223333/eu-west-1/i-0123456789abcdef0`,
		RunE: func(cmd *cobra.Command, args []string) error {
			store, err := open()
			if err != nil {
				return err
			}
			err = store.Delete(cmd.Context(), args[0])
			if errors.Is(err, hostkeys.ErrNotPinned) {
				return fmt.Errorf("%s: %w; `pins list` shows what is", args[0], err)
			}
			return err
		},
	}
}

func newPinsAddCommand(open openPins) *cobra.Command {
	return &cobra.Command{
		Use: "add ACCOUNT/REGION/ID KEY...", Short: "Pin keys of an instance, in place of what was pinned", Args: cobra.MinimumNArgs(2),
		Example: `  ssm-ssh-gateway pins add -c config.toml 111122223333/eu-west-1/i-0123456789abcdef0 "ssh-ed25519 AAAA…"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if strings.Count(args[0], "/") != 2 {
				return &exitError{Code: exitUsage, Err: fmt.Errorf("%q is not ACCOUNT/REGION/ID", args[0])}
			}
			var keys []ssh.PublicKey
			for _, text := range args[1:] {
				key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
				if err != nil {
					return &exitError{Code: exitUsage, Err: fmt.Errorf("%.40q is no public key: %w", text, err)}
				}
				keys = append(keys, key)
			}
			store, err := open()
			if err != nil {
				return err
			}
			return store.Replace(cmd.Context(), hostkeys.NewPin(args[0], hostkeys.BelievedOperator, keys...))
		},
	}
}
