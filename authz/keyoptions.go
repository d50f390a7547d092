package authz

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// maxPermits bounds permitopen and permitlisten entries of one line, as sshd does (SSH_AUTHOPT_PERMIT_MAX, auth-options.c).
const maxPermits = 4096

// parseOptions reads the comma-separated options at the start of a line, in order, so that what follows restrict can switch on again. It gives
// where they end; on error, the column (1-based) of the option that is wrong.
func (k *keyLine) parseOptions(line string) (end, col int, err error) {
	for pos := 0; ; pos++ {
		name, value, next, err := scanOption(line, pos)
		if err == nil {
			err = k.apply(name, value)
		}
		if err != nil {
			return 0, pos + 1, err
		}
		pos = next
		if pos == len(line) || line[pos] != ',' {
			return pos, 0, nil
		}
	}
}

// scanOption reads one name or name="value" at pos and gives where it ends. Within quotes, \" is a quote and every other backslash is itself.
func scanOption(line string, pos int) (name string, value *string, next int, err error) {
	next = pos
	for next < len(line) && !strings.ContainsRune(",= \t\"", rune(line[next])) {
		next++
	}
	name = line[pos:next]
	if next == len(line) || line[next] != '=' {
		return name, nil, next, nil
	}
	if next++; next == len(line) || line[next] != '"' {
		return name, nil, next, fmt.Errorf("the value of %s needs quotes", clip(name))
	}
	var b strings.Builder
	for next++; next < len(line); next++ {
		switch {
		case line[next] == '\\' && next+1 < len(line) && line[next+1] == '"':
			next++
			b.WriteByte('"')
		case line[next] == '"':
			text := b.String()
			return name, &text, next + 1, nil
		default:
			b.WriteByte(line[next])
		}
	}
	return name, nil, next, fmt.Errorf("the quotes of %s are not closed", clip(name))
}

// apply takes one option in. Names are case-insensitive; an unknown one invalidates the line (sshd(8)).
func (k *keyLine) apply(name string, value *string) error {
	lower := strings.ToLower(name)
	if set, known := valueOptions[lower]; known {
		if value == nil {
			return fmt.Errorf(`%s needs a value: %s="..."`, lower, lower)
		}
		return set(k, *value)
	}
	set, known := flagOptions[lower]
	switch {
	case !known:
		return fmt.Errorf("unknown option %q", clip(name))
	case value != nil:
		return fmt.Errorf("%s takes no value", lower)
	}
	return set(k)
}

// grant makes the setter of a flag that changes what is granted.
func grant(change func(g *ChannelGrants)) func(*keyLine) error {
	return func(k *keyLine) error { change(&k.grants); return nil }
}

func ignoreFlag(*keyLine) error { return nil }

// flagOptions are the options without a value. user-rc is accepted and means nothing here: the machine's own sshd runs rc files.
var flagOptions = map[string]func(*keyLine) error{
	"restrict": grant(func(g *ChannelGrants) {
		g.PTY, g.PortForwarding, g.AgentForwarding, g.X11Forwarding = false, false, false, false
	}),
	"pty":                 grant(func(g *ChannelGrants) { g.PTY = true }),
	"no-pty":              grant(func(g *ChannelGrants) { g.PTY = false }),
	"port-forwarding":     grant(func(g *ChannelGrants) { g.PortForwarding = true }),
	"no-port-forwarding":  grant(func(g *ChannelGrants) { g.PortForwarding = false }),
	"agent-forwarding":    grant(func(g *ChannelGrants) { g.AgentForwarding = true }),
	"no-agent-forwarding": grant(func(g *ChannelGrants) { g.AgentForwarding = false }),
	"x11-forwarding":      grant(func(g *ChannelGrants) { g.X11Forwarding = true }),
	"no-x11-forwarding":   grant(func(g *ChannelGrants) { g.X11Forwarding = false }),
	"user-rc":             ignoreFlag,
	"no-user-rc":          ignoreFlag,
	"cert-authority":      func(k *keyLine) error { k.certAuthority = true; return nil },
	"no-touch-required":   func(k *keyLine) error { k.touchWaived = true; return nil },
	"touch-required":      func(k *keyLine) error { k.touchWaived = false; return nil },
	"no-verify-required":  ignoreFlag,
	"verify-required": func(*keyLine) error {
		return fmt.Errorf("verify-required cannot be enforced: the SSH library does not show whether a PIN was given")
	},
}

// valueOptions are the options with a value. environment= and tunnel= are accepted and ignored: the first is off in sshd by default too, and
// there are no tun devices here to give.
var valueOptions = map[string]func(*keyLine, string) error{
	"from":         (*keyLine).setFrom,
	"expiry-time":  (*keyLine).setExpiry,
	"principals":   (*keyLine).setPrincipals,
	"command":      (*keyLine).setCommand,
	"permitopen":   (*keyLine).addPermitOpen,
	"permitlisten": (*keyLine).addPermitListen,
	"environment":  func(*keyLine, string) error { return nil },
	"tunnel":       func(*keyLine, string) error { return nil },
}

func (k *keyLine) setFrom(value string) error {
	if k.from != nil {
		return fmt.Errorf("from= is given twice")
	}
	list, err := parseFrom(value)
	if err != nil {
		return err
	}
	k.from = list
	return nil
}

// setExpiry keeps the earliest of several, as sshd does.
func (k *keyLine) setExpiry(value string) error {
	t, err := parseExpiry(value)
	if err != nil {
		return err
	}
	if k.expiry.IsZero() || t.Before(k.expiry) {
		k.expiry = t
	}
	return nil
}

func (k *keyLine) setPrincipals(value string) error {
	if k.principals != nil {
		return fmt.Errorf("principals= is given twice")
	}
	k.principals = strings.Split(value, ",")
	if slices.Contains(k.principals, "") {
		return fmt.Errorf("principals= has an empty name")
	}
	return nil
}

func (k *keyLine) setCommand(value string) error {
	switch {
	case k.grants.ForceCommand != "":
		return fmt.Errorf("command= is given twice")
	case value == "":
		return fmt.Errorf("command= is empty")
	}
	k.grants.ForceCommand = value
	return nil
}

func (k *keyLine) addPermitOpen(value string) error {
	entry, err := permitEntry("permitopen", value, "")
	if err != nil {
		return err
	}
	k.grants.PermitOpen = append(k.grants.PermitOpen, entry)
	return tooMany("permitopen", k.grants.PermitOpen)
}

func (k *keyLine) addPermitListen(value string) error {
	entry, err := permitEntry("permitlisten", value, "*")
	if err != nil {
		return err
	}
	k.grants.PermitListen = append(k.grants.PermitListen, entry)
	return tooMany("permitlisten", k.grants.PermitListen)
}

func tooMany(option string, entries []string) error {
	if len(entries) > maxPermits {
		return fmt.Errorf("more than %d times %s", maxPermits, option)
	}
	return nil
}

// permitEntry checks host:port. anyHost stands for a host left out; where it is empty, a host is required.
func permitEntry(option, value, anyHost string) (string, error) {
	if anyHost != "" && !strings.Contains(value, ":") {
		value = anyHost + ":" + value
	}
	host, port, ok := splitPermit(value)
	if !ok || host == "" {
		return "", fmt.Errorf("%s %q is not host:port", option, clip(value))
	}
	if n, err := strconv.ParseUint(port, 10, 16); port != "*" && (err != nil || n == 0) {
		return "", fmt.Errorf("%s %q: the port is neither 1 to 65535 nor *", option, clip(value))
	}
	return value, nil
}

// parseExpiry reads YYYYMMDD[HHMM[SS]], in the system's time zone unless Z follows (sshd(8), expiry-time).
func parseExpiry(value string) (time.Time, error) {
	digits, zone := value, time.Local
	if strings.HasSuffix(value, "Z") {
		digits, zone = strings.TrimSuffix(value, "Z"), time.UTC
	}
	layout := map[int]string{8: "20060102", 12: "200601021504", 14: "20060102150405"}[len(digits)]
	t, err := time.ParseInLocation(layout, digits, zone)
	if layout == "" || err != nil {
		return time.Time{}, fmt.Errorf("expiry-time %q is not YYYYMMDD[HHMM[SS]][Z]", clip(value))
	}
	return t, nil
}
