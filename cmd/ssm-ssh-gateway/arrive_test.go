package main

import (
	"fmt"
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway/metrics"
)

// notForTheParts are keys that go elsewhere.
var notForTheParts = []string{
	"aws.ambient_credentials", "limits.max_certificate_validity", // to the directory of people
	"targets.host_keys", "targets.trusted_host_ca", // to the verifier of host keys
	"limits.drain_timeout", // nowhere: serve itself waits for so long
}

// TestEveryKeyArrives sets one key at a time, of those that tune the gateway, AWS and the sessions, and wants what the parts of the program are given to be another
// than without it, and another than with any other key.
func TestEveryKeyArrives(t *testing.T) {
	given := map[string]string{translated(blank()): "none"}
	sections := map[string]func(*loadedConfig) any{
		"aws": func(c *loadedConfig) any { return &c.AWS }, "session": func(c *loadedConfig) any { return &c.Session },
		"targets": func(c *loadedConfig) any { return &c.Targets }, "limits": func(c *loadedConfig) any { return &c.Limits },
		"account": func(c *loadedConfig) any { return &c.Accounts[0] },
	}
	for name, section := range sections {
		for i := range reflect.TypeOf(section(blank())).Elem().NumField() {
			cfg := blank()
			of := reflect.ValueOf(section(cfg)).Elem()
			key := name + "." + of.Type().Field(i).Tag.Get("toml")
			if slices.Contains(notForTheParts, key) {
				continue
			}
			set(t, of.Field(i))
			got := translated(cfg)
			if other, taken := given[got]; taken {
				t.Errorf("%s makes no difference, or the same as %s", key, other)
			}
			given[got] = key
		}
	}
}

// blank has no key but an account to set keys of.
func blank() *loadedConfig {
	return &loadedConfig{fileConfig: fileConfig{Accounts: make([]accountConfig, 1)}}
}

// set gives a field a value that nothing has by default.
func set(t *testing.T, field reflect.Value) {
	t.Helper()
	switch value := field.Addr().Interface().(type) {
	case *string:
		*value = "set"
	case *[]string:
		*value = []string{"set"}
	case *int:
		*value = 77
	case *float64:
		*value = 77
	case *bool:
		*value = true
	case **bool: // whose default is true
		*value = new(bool)
	case *duration:
		*value = duration{77 * time.Second}
	case **duration:
		*value = &duration{77 * time.Second}
	case *startups:
		*value = startups{77, 78, 79}
	default:
		t.Fatalf("no value for a %T", value)
	}
}

// translated is all that the parts are given, as text.
func translated(cfg *loadedConfig) string {
	a := &assembly{cfg: cfg, rules: &judgement{}, keys: &keyRing{}, log: slog.New(slog.DiscardHandler), metrics: metrics.New("")}
	return fields(a.gatewayConfig()) + fields(cloudConfig(cfg, nil)) + fields(*a.sessionOptions(true))
}

// fields writes a struct, whatever it prefers to print of itself. Of what has no value of its own to show, it tells whether it is there.
func fields(structure any) string {
	var text strings.Builder
	of := reflect.ValueOf(structure)
	for i := range of.NumField() {
		name, field := of.Type().Field(i).Name, of.Field(i)
		switch {
		case field.Kind() == reflect.Func || field.Kind() == reflect.Interface || field.Kind() == reflect.Pointer:
			fmt.Fprintf(&text, "%s: %v\n", name, !field.IsNil())
		case field.Kind() == reflect.Slice && field.Type().Elem().Kind() == reflect.Struct:
			for n := range field.Len() {
				text.WriteString(fields(field.Index(n).Interface()))
			}
		default:
			fmt.Fprintf(&text, "%s: %+v\n", name, field)
		}
	}
	return text.String()
}
