package awscloud

import (
	"context"
	"regexp"
	"slices"
	"strings"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// DNS records that name a machine: a TXT record at dnsLabel.NAME, else at NAME itself, with the text dnsPrefix and a target as a person could type it.
const (
	dnsLabel  = "_ssm-ssh-gateway."
	dnsPrefix = "ssm-target="
)

// hostNamePattern is a DNS name of two labels or more (RFC 1123 §2.1), lower case.
var hostNamePattern = regexp.MustCompile(`^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$`)

// findOrAskDNS is find and then, for a name that no account knows and that could be a host's, DNS.
func (c *Cloud) findOrAskDNS(ctx context.Context, name string, t *target) (answer, error) {
	found, err := c.find(ctx, t)
	if err != nil || c.cfg.LookupTXT == nil || found.refusal == nil || found.refusal.Reason != authz.ReasonUnknownTarget {
		return found, err
	}
	if t.form != formName || t.region != "" || t.account != "" || !hostNamePattern.MatchString(name) {
		return found, nil
	}
	return c.findByDNS(ctx, name, found)
}

// findByDNS follows the records of a name. They lead to one machine, not to an alias or to another name in DNS, and never to an address: whoever can
// write such a record is not to send people to wherever they like. unknown is the answer where there are none.
func (c *Cloud) findByDNS(ctx context.Context, name string, unknown answer) (answer, error) {
	meant := c.targetsInDNS(ctx, name)
	switch len(meant) {
	case 0:
		return unknown, nil
	case 1:
	default:
		return answer{refusal: &authz.Refusal{Reason: authz.ReasonAmbiguousTarget, Detail: "its DNS records differ", Candidates: meant}}, nil
	}
	t, err := parseTarget(meant[0], c.isAccount)
	if err != nil || t.form == formAddress || t.form == formDNS {
		c.log.WarnContext(ctx, "a DNS record names no machine", "name", name, "target", meant[0], "err", err)
		return answer{refusal: &authz.Refusal{Reason: authz.ReasonUnknownTarget, Detail: "its DNS record names no machine"}}, nil
	}
	return c.find(ctx, &t)
}

// targetsInDNS gives the distinct targets in the records of a name. A resolver that fails is as good as one that knows nothing: the name is unknown, for as long
// as that is remembered.
func (c *Cloud) targetsInDNS(ctx context.Context, name string) []string {
	for _, at := range []string{dnsLabel + name + ".", name + "."} { // the dot at the end keeps search domains out
		records, err := c.cfg.LookupTXT(ctx, at)
		if err != nil {
			c.log.DebugContext(ctx, "no TXT record", "name", at, "err", err)
			continue
		}
		var targets []string
		for _, record := range records {
			if to, ok := strings.CutPrefix(strings.TrimSpace(record), dnsPrefix); ok {
				targets = append(targets, strings.ToLower(strings.TrimSpace(to)))
			}
		}
		slices.Sort(targets)
		if targets = slices.Compact(targets); len(targets) > 0 {
			return targets[:min(len(targets), maxCandidates)]
		}
	}
	return nil
}
