package main

import (
	"bufio"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

const healthcheckTimeout = 3 * time.Second

func newHealthcheckCommand() *cobra.Command {
	var address string
	cmd := &cobra.Command{
		Use:   "healthcheck",
		Short: "Say whether a gateway answers (exit status 0) or not",
		Long:  "healthcheck connects to a gateway and waits for its SSH version line. It is made for containers that have no shell.",
		Example: `  ssm-ssh-gateway healthcheck
  ssm-ssh-gateway healthcheck --address 10.0.0.10:22`,
		Args: cobra.NoArgs,
		RunE: func(_ *cobra.Command, _ []string) error {
			return checkHealth(address)
		},
	}
	cmd.Flags().StringVar(&address, "address", "127.0.0.1:2222", "host:port of the gateway")
	return cmd
}

// checkHealth succeeds when an SSH server speaks first at address, as RFC 4253 §4.2 has servers do.
func checkHealth(address string) error {
	conn, err := net.DialTimeout("tcp", address, healthcheckTimeout)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	if err := conn.SetDeadline(time.Now().Add(healthcheckTimeout)); err != nil {
		return err
	}
	line, err := bufio.NewReaderSize(conn, 256).ReadString('\n')
	if err != nil {
		return fmt.Errorf("%s does not say who it is: %w", address, err)
	}
	if !strings.HasPrefix(line, "SSH-2.0-") {
		return fmt.Errorf("%s is no SSH server: it says %q", address, line)
	}
	return nil
}
