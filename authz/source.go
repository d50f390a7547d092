package authz

import (
	"fmt"
	"net/netip"
	"strings"
)

// fromList is the value of from=: addresses, networks and wildcard patterns, each perhaps negated with !. Host names never match, because nothing
// here asks the DNS; sshd does not either unless UseDNS is set.
type fromList struct{ entries []fromEntry }

type fromEntry struct {
	negated bool
	network netip.Prefix // valid for an address or network
	pattern string       // else a wildcard pattern over the address as text
}

// parseFrom reads a pattern list. A network with host bits set is an error, as in sshd: it is not clear what was meant.
func parseFrom(value string) (*fromList, error) {
	list := &fromList{}
	for _, text := range strings.Split(value, ",") {
		bare, negated := strings.CutPrefix(text, "!")
		if bare == "" {
			return nil, fmt.Errorf("from= has an empty entry")
		}
		entry := fromEntry{negated: negated, pattern: strings.ToLower(bare)}
		if strings.Contains(bare, "/") {
			network, err := parseNetwork(bare)
			if err != nil {
				return nil, fmt.Errorf("from= entry %q: %w", clip(bare), err)
			}
			entry.network = network
		} else if addr, err := netip.ParseAddr(bare); err == nil {
			entry.network = single(addr)
		}
		list.entries = append(list.entries, entry)
	}
	return list, nil
}

// allows reports whether a client at addr may use the key. A negated entry that matches refuses whatever else does (ssh_config(5), PATTERNS).
func (l *fromList) allows(addr netip.Addr) bool {
	if l == nil {
		return true
	}
	addr = addr.Unmap().WithZone("")
	if !addr.IsValid() {
		return false
	}
	found := false
	for _, e := range l.entries {
		if !e.matches(addr) {
			continue
		}
		if e.negated {
			return false
		}
		found = true
	}
	return found
}

func (e fromEntry) matches(addr netip.Addr) bool {
	if e.network.IsValid() {
		return e.network.Contains(addr)
	}
	return matchWildcard(e.pattern, addr.String())
}

// sourceAddressAllows judges the source-address option of a certificate (OpenSSH PROTOCOL.certkeys): a list of addresses and networks, nothing
// else. A malformed list is an error, never a match.
func sourceAddressAllows(value string, addr netip.Addr) (bool, error) {
	addr = addr.Unmap().WithZone("")
	found := false
	for _, text := range strings.Split(value, ",") {
		network, err := parseNetwork(text)
		if err != nil {
			return false, fmt.Errorf("source-address entry %q: %w", clip(text), err)
		}
		found = found || network.Contains(addr)
	}
	return found && addr.IsValid(), nil
}

// parseNetwork reads an address or a network in CIDR notation.
func parseNetwork(text string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(text); err == nil && addr.Zone() == "" {
		return single(addr), nil
	}
	network, err := netip.ParsePrefix(text)
	switch {
	case err != nil:
		return netip.Prefix{}, fmt.Errorf("not an address or network")
	case network != network.Masked():
		return netip.Prefix{}, fmt.Errorf("the network has bits set beyond its mask")
	}
	return network, nil
}

// single is the network of one address.
func single(addr netip.Addr) netip.Prefix {
	addr = addr.Unmap().WithZone("")
	return netip.PrefixFrom(addr, addr.BitLen())
}
