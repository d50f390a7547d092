package authz

import (
	"net/netip"
	"regexp"
	"slices"
	"strings"
)

// maxTarget is the longest target name looked at: the longest DNS name (RFC 1035 §2.3.4), and the longest tag value is 256.
const maxTarget = 255

// TargetKind says what form a target name has, and so what it is looked up by.
type TargetKind string

// The forms. TargetByName is a Name tag, an alias or a DNS name: which of them, only the inventory can tell.
const (
	TargetByID      TargetKind = "id"
	TargetByAddress TargetKind = "address"
	TargetByTag     TargetKind = "tag"
	TargetByName    TargetKind = "name"
)

// TargetName is a target as typed, taken apart. Two spellings of one target give equal values where spelling has no meaning.
type TargetName struct {
	Kind    TargetKind
	Value   string     // the id in lower case, the canonical address, the tag's value, or the name as typed
	TagKey  string     // for TargetByTag
	Address netip.Addr // for TargetByAddress
	Suffix  []string   // .region and .account labels behind an id or address, lower case; for other forms ask SplitSuffix
}

var (
	instanceIDPattern = regexp.MustCompile(`^(i-([0-9a-f]{8}|[0-9a-f]{17})|mi-[0-9a-f]{17})$`)
	// targetPattern is the allow-list: what tags, DNS names and addresses need, nothing that a shell, a terminal or a log could trip over.
	targetPattern = regexp.MustCompile(`^[A-Za-z0-9_:][A-Za-z0-9._:/+=-]*$`)
	numbersOnly   = regexp.MustCompile(`^([0-9.]+|0[xX][0-9A-Fa-f.xX]*)$`)
	// labelPattern is a suffix label: an account id, or a region or alias, which has a letter somewhere; so 1.2.3.4.5 stays nothing.
	labelPattern = regexp.MustCompile(`^([0-9]{12}|[0-9_-]*[a-z][a-z0-9_-]{0,62})$`)
)

// ownHost lists the names that never mean a machine behind the gateway but the host it runs on, or the instance metadata service.
var ownHost = []string{"localhost", "ip6-localhost", "ip6-loopback", "instance-data", "instance-data.ec2.internal", "metadata", "metadata.google.internal"}

// IsInstanceID reports whether s is an EC2 instance id (i- and 8 or 17 hex digits) or a managed node id (mi- and 17), in lower case.
func IsInstanceID(s string) bool { return instanceIDPattern.MatchString(s) }

// ParseTarget takes a target apart: an id, an IP address, tag:value with any tag key, else a name. Ids and addresses may carry .region and .account
// suffixes. Anything longer than 255 bytes, outside the ASCII allow-list, half an id, or an address or name of the gateway's own host or of a
// metadata service is a *Refusal with ReasonBadTargetName. Nothing is looked up: a good form says nothing about existence.
func ParseTarget(name string) (TargetName, error) {
	if len(name) > maxTarget || !targetPattern.MatchString(name) {
		return TargetName{}, badTarget(name, "")
	}
	lower := strings.ToLower(name)
	if strings.HasSuffix(name, ".") || strings.Contains(name, "..") {
		return TargetName{}, badTarget(name, "an empty part between dots")
	}
	if slices.Contains(ownHost, lower) || strings.HasSuffix(lower, ".localhost") {
		return TargetName{}, badTarget(name, "the gateway's own host is not a target")
	}
	if addr, suffix, ok := cutAddress(lower); ok {
		return addressTarget(name, addr, suffix)
	}
	if numbersOnly.MatchString(name) { // 127.1, 2130706433, 0x7f000001: addresses to some resolvers
		return TargetName{}, badTarget(name, "neither an address nor a name")
	}
	head, rest, _ := strings.Cut(lower, ".")
	if IsInstanceID(head) {
		suffix, ok := labels(rest)
		if !ok {
			return TargetName{}, badTarget(name, "")
		}
		return TargetName{Kind: TargetByID, Value: head, Suffix: suffix}, nil
	}
	if key, value, found := strings.Cut(name, ":"); found {
		if key == "" || value == "" {
			return TargetName{}, badTarget(name, "a tag is written key:value")
		}
		return TargetName{Kind: TargetByTag, TagKey: key, Value: value}, nil
	}
	return TargetName{Kind: TargetByName, Value: name}, nil
}

// SplitSuffix takes up to two labels off the end of a name, as long as known says they are a region or an account, and as long as something is
// left to be the name. The suffix keeps its order: "web.1.prod.eu-west-1" gives "web.1" and [prod eu-west-1].
func SplitSuffix(name string, known func(label string) bool) (base string, suffix []string) {
	base = name
	for len(suffix) < 2 {
		dot := strings.LastIndexByte(base, '.')
		if dot <= 0 || !known(base[dot+1:]) {
			break
		}
		suffix = append([]string{base[dot+1:]}, suffix...)
		base = base[:dot]
	}
	return base, suffix
}

// cutAddress finds an IP address at the start: all of the name, or four numbers followed by suffix labels.
func cutAddress(lower string) (netip.Addr, []string, bool) {
	if addr, err := netip.ParseAddr(lower); err == nil {
		return addr.Unmap(), nil, true
	}
	parts := strings.SplitN(lower, ".", 5)
	if len(parts) < 5 {
		return netip.Addr{}, nil, false
	}
	addr, err := netip.ParseAddr(strings.Join(parts[:4], "."))
	if err != nil {
		return netip.Addr{}, nil, false
	}
	suffix, ok := labels(parts[4])
	return addr, suffix, ok
}

// metadataV6 holds the IPv6 addresses of the services inside every instance (IMDS is fd00:ec2::254, DNS ::253, time ::123).
var metadataV6 = netip.MustParsePrefix("fd00:ec2::/32")

// addressTarget refuses the addresses that mean the gateway's own host, its link or nobody. Link-local covers the IPv4 metadata services
// (169.254.169.254 and 169.254.170.2).
func addressTarget(name string, addr netip.Addr, suffix []string) (TargetName, error) {
	if !addr.IsGlobalUnicast() || metadataV6.Contains(addr) || addr.Zone() != "" {
		return TargetName{}, badTarget(name, "this address is not a target")
	}
	return TargetName{Kind: TargetByAddress, Value: addr.String(), Address: addr, Suffix: suffix}, nil
}

// labels splits at most two suffix labels.
func labels(s string) ([]string, bool) {
	if s == "" {
		return nil, true
	}
	parts := strings.Split(s, ".")
	for _, p := range parts {
		if !labelPattern.MatchString(p) {
			return nil, false
		}
	}
	return parts, len(parts) <= 2
}

func badTarget(name, detail string) error {
	return &Refusal{Reason: ReasonBadTargetName, Subject: clip(name), Detail: detail}
}

// clip keeps a name of unknown length and content fit for a message: at most 64 bytes, nothing but printable ASCII.
func clip(s string) string {
	const limit = 64
	tail := ""
	if len(s) > limit {
		s, tail = s[:limit], "..."
	}
	printable := func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return '?'
		}
		return r
	}
	return strings.Map(printable, s) + tail
}
