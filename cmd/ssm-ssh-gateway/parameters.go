package main

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

// parseParameters reads NAME=VALUE pairs for a session document; nil when there are none.
func parseParameters(pairs []string) (map[string][]string, error) {
	var parameters map[string][]string
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("%q is not NAME=VALUE", pair)
		}
		if parameters == nil {
			parameters = map[string][]string{}
		}
		parameters[name] = append(parameters[name], value)
	}
	return parameters, nil
}

// usageArgs makes a wrong number of arguments a fault of usage.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &exitError{Code: exitUsage, Err: fmt.Errorf("%w\ntry '%s --help'", err, cmd.CommandPath())}
		}
		return nil
	}
}
