package main

import (
	"fmt"
	"strings"
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
