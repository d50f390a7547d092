package main

import (
	"fmt"
	"log/slog"
	"net"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// maxPayloadLimit is the largest message that AWS's agent was seen to take.
const maxPayloadLimit = 64 << 10

var accountPattern = regexp.MustCompile(`^[0-9]{12}$`)

// checkValues is what decoding cannot see: values of the right type that make no sense.
func checkValues(cfg *loadedConfig) []finding {
	var findings []finding
	report := func(path, format string, args ...any) { findings = append(findings, cfg.at(path, format, args...)) }
	for i, address := range cfg.Listen {
		if _, _, err := net.SplitHostPort(address); err != nil {
			report(fmt.Sprintf("listen[%d]", i), "%q is not host:port", address)
		}
	}
	offered := ssh.SupportedAlgorithms().Ciphers // without the weak ones that the library knows, too
	for i, cipher := range cfg.Ciphers {
		if !slices.Contains(offered, cipher) {
			report(fmt.Sprintf("ciphers[%d]", i), "%q is none of %s", cipher, strings.Join(offered, ", "))
		}
	}
	for i, port := range cfg.SSHPorts {
		if port < 1 || port > 65535 {
			report(fmt.Sprintf("ssh_ports[%d]", i), "%d is no port", port)
		}
	}
	if cfg.OSUser != "" {
		if _, err := authz.ParseOSUser(cfg.OSUser); err != nil {
			report("passthrough_os_user", "%q is no name of a user that Instance Connect takes", cfg.OSUser)
		}
	}
	var level slog.Level
	if err := level.UnmarshalText([]byte(cfg.LogLevel)); cfg.LogLevel != "" && err != nil {
		report("log_level", "%q is not debug, info, warn or error", cfg.LogLevel)
	}
	if size := cfg.Session.MaxPayload; size < 0 || size > maxPayloadLimit {
		report("session.max_payload", "%d is not between 1 and %d", size, maxPayloadLimit)
	}
	if size := cfg.Session.Discover; size < 0 || size > maxPayloadLimit {
		report("session.discover_payload", "%d is not between 0 and %d", size, maxPayloadLimit)
	}
	if kept := cfg.Session.keepWarm(); kept > longestKeepWarm {
		report("session.keep_warm", "%s is longer than %s", kept, longestKeepWarm)
	}
	switch cfg.LogFormat {
	case "", "text", "json":
	default:
		report("log_format", "%q is not text or json", cfg.LogFormat)
	}
	if _, err := hostKeyMode(cfg.Targets.HostKeys); err != nil {
		report("targets.host_keys", "%s", err)
	}
	for i, line := range cfg.Targets.TrustedHostCA {
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil {
			report(fmt.Sprintf("targets.trusted_host_ca[%d]", i), "is no public key: %s", err)
		}
	}
	if err := checkMetricsAddress(cfg.MetricsListen, cfg.MetricsPublic); err != nil {
		report("metrics_listen", "%s", err)
	}
	if cfg.StateDir == "" {
		report("state_dir", "is required: the gateway keeps its keys there")
	}
	findings = append(findings, checkFallbacks(cfg)...)
	findings = append(findings, checkAccounts(cfg)...)
	return append(findings, checkPeople(cfg)...)
}

// checkFallbacks finds ways in that nobody could take: the built-in policy permits none of them.
func checkFallbacks(cfg *loadedConfig) []finding {
	var findings []finding
	for _, way := range []struct {
		key    string
		on     bool
		action authz.Action
	}{
		{"user_ca_key", cfg.UserCAKey != "", authz.ActionCertificateLogin},
		{"targets.forwarded_agent", cfg.Targets.ForwardedAgent, authz.ActionAgentLogin},
		{"targets.session_manager_shell", cfg.Targets.SessionShell, authz.ActionSessionShell},
	} {
		if way.on && len(cfg.Policies) == 0 {
			findings = append(findings, cfg.at(way.key, "nobody may use it without policies: one has to permit %s", way.action))
		}
	}
	if user := cfg.Targets.SessionUser; user != "" {
		if _, err := authz.ParseOSUser(user); err != nil {
			findings = append(findings, cfg.at("targets.session_manager_user", "%q is not a user name", user))
		}
	}
	return findings
}

func checkAccounts(cfg *loadedConfig) []finding {
	var findings []finding
	seen := map[string]bool{}
	for i, account := range cfg.Accounts {
		path := fmt.Sprintf("account[%d]", i)
		if !accountPattern.MatchString(account.ID) {
			findings = append(findings, cfg.at(path+".id", "%q is not twelve digits", account.ID))
		}
		if strings.ContainsAny(account.Alias, ". \t@") {
			findings = append(findings, cfg.at(path+".alias", "%q is no word without dots", account.Alias))
		}
		for _, name := range []string{account.ID, account.Alias} {
			if name != "" && seen[name] {
				findings = append(findings, cfg.at(path, "%q is named twice", name))
			}
			seen[name] = true
		}
		if len(account.Regions) == 0 && cfg.AWS.Region == "" {
			findings = append(findings, cfg.at(path+".regions", "no region here and none in aws.region"))
		}
	}
	return findings
}

// checkPeople finds a gateway that lets nobody in, which nobody wants.
func checkPeople(cfg *loadedConfig) []finding {
	if len(cfg.People) == 0 {
		return []finding{cfg.at("person", "nobody may log in: add a [[person]]")}
	}
	var findings []finding
	for i, person := range cfg.People {
		if len(person.Keys) == 0 && person.KeysFile == "" && len(person.Principals) == 0 {
			findings = append(findings, cfg.at(fmt.Sprintf("person[%d]", i), "%s has no keys, keys_file or principals and so can never log in", person.Name))
		}
		if len(cfg.Policies) == 0 && !cfg.AWS.AmbientRole && !hasRole(cfg, person) { // a policy may name one: @role
			findings = append(findings, cfg.at(fmt.Sprintf("person[%d]", i), "%s has no role, nor a group with one, and so can reach no machine", person.Name))
		}
	}
	return findings
}

// hasRole reports whether there is a role for the person, in whichever account.
func hasRole(cfg *loadedConfig, person personConfig) bool {
	return person.Role != "" || len(person.Roles) > 0 || slices.ContainsFunc(cfg.Groups, func(g groupConfig) bool {
		return slices.Contains(person.Groups, g.Name) && (g.Role != "" || len(g.Roles) > 0)
	})
}
