package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/awscloud"
)

func newLoginCommand() *cobra.Command {
	var profile string
	cmd := &cobra.Command{
		Use:   "login",
		Short: "Log in to AWS IAM Identity Center (SSO), as aws sso login does",
		Long: `login prints an address and a code to confirm in a browser, on this machine or another, and waits for it. The token is kept where AWS's tools look for it
(~/.aws/sso/cache), so a login here is one for them too. The profile needs sso_session, or sso_start_url and sso_region.`,
		Example: `  ssm-ssh-gateway login
  ssm-ssh-gateway login --profile prod`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			stderr := cmd.ErrOrStderr()
			expires, err := awscloud.Login(cmd.Context(), profile, func(p awscloud.LoginPrompt) {
				_, _ = fmt.Fprintf(stderr, "Open %s\nand confirm the code %s\n", p.URL, p.Code)
			})
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(stderr, "Logged in until %s\n", expires.Local().Format(time.DateTime))
			return err
		},
	}
	cmd.Flags().StringVar(&profile, "profile", "", "AWS profile (default: the environment's)")
	return cmd
}
