package awscloud

import (
	"net/netip"
	"regexp"
	"strings"
	"unicode"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// form is the kind of name a target was given by.
type form int

const (
	formName     form = iota // a Name tag
	formInstance             // i-…
	formManaged              // mi-…
	formAddress              // a private IPv4 or IPv6 address
	formDNS                  // a private DNS name, ending in .internal
	formTag                  // key:value
)

// target is a parsed name. What it means is not known yet.
type target struct {
	typed   string // as the person typed it, for messages
	form    form
	base    string // the name without suffixes: id, Name, address, DNS name
	key     string // of formTag
	value   string // of formTag
	region  string // "" means any
	account string // alias or number; "" means any
}

const maxTargetName = 512 // bytes: a tag value may have 256 characters

var (
	instancePattern    = regexp.MustCompile(`^i-[0-9a-f]{8,32}$`)
	managedPattern     = regexp.MustCompile(`^mi-[0-9a-f]{17,32}$`)
	ipNamePattern      = regexp.MustCompile(`^ip-([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})$`)
	resourceDNSPattern = regexp.MustCompile(`^(i-[0-9a-f]{8,32})\.(?:ec2|([a-z0-9-]+)\.compute)\.internal$`)
)

// parseTarget reads a name and its optional .region and .account suffixes, in either order. isAccount says which labels are accounts: a Name tag that
// ends in such a label cannot be reached by that name alone, which is the price of suffixes.
//
// Case does not matter, because OpenSSH lowers the case of host names before a jump host sees them. Wildcards are refused: EC2's filters would obey them.
func parseTarget(typed string, isAccount func(label string) bool) (target, *authz.Refusal) {
	if typed == "" || len(typed) > maxTargetName || strings.ContainsFunc(typed, neverInNames) {
		return target{}, &authz.Refusal{Reason: authz.ReasonBadTargetName, Subject: typed}
	}
	t := target{typed: typed, base: typed}
	for t.cutSuffix(isAccount) {
	}
	lower := strings.ToLower(t.base)
	switch address, err := netip.ParseAddr(strings.Trim(lower, "[]")); {
	case instancePattern.MatchString(lower):
		t.form, t.base = formInstance, lower
	case managedPattern.MatchString(lower):
		t.form, t.base = formManaged, lower
	case err == nil && address.Zone() == "":
		t.form, t.base = formAddress, address.Unmap().String()
	case strings.HasSuffix(lower, ".internal"):
		t.readDNS(lower)
	case ipNamePattern.MatchString(lower):
		t.form, t.base = formAddress, strings.Join(ipNamePattern.FindStringSubmatch(lower)[1:], ".")
	case strings.Contains(t.base, ":"):
		return t, t.readTag()
	}
	return t, nil
}

func neverInNames(r rune) bool {
	return r == '*' || r == '?' || r == '\\' || unicode.IsControl(r) || r == unicode.ReplacementChar
}

// cutSuffix takes one suffix off the end, each kind at most once, and never the whole name.
func (t *target) cutSuffix(isAccount func(string) bool) bool {
	dot := strings.LastIndexByte(t.base, '.')
	if dot < 1 {
		return false
	}
	label := t.base[dot+1:]
	switch {
	case t.region == "" && regionPattern.MatchString(strings.ToLower(label)):
		t.region = strings.ToLower(label)
	case t.account == "" && isAccount(label):
		t.account = label
	default:
		return false
	}
	t.base = t.base[:dot]
	return true
}

// readDNS reads a private DNS name. Resource-based names carry the instance id (EC2 user guide, hostname types).
func (t *target) readDNS(lower string) {
	t.form, t.base = formDNS, lower
	if m := resourceDNSPattern.FindStringSubmatch(lower); m != nil {
		t.form, t.base = formInstance, m[1]
		if t.region == "" {
			t.region = m[2]
		}
	}
}

// readTag splits key:value at the last colon, because keys such as aws:autoscaling:groupName have colons of their own.
func (t *target) readTag() *authz.Refusal {
	colon := strings.LastIndexByte(t.base, ':')
	t.form, t.key, t.value = formTag, t.base[:colon], t.base[colon+1:]
	if t.key == "" || t.value == "" {
		return &authz.Refusal{Reason: authz.ReasonBadTargetName, Subject: t.typed}
	}
	return nil
}

// unique reports whether at most one machine in the world can have the name, so that the first place that knows it ends the search.
func (t *target) unique() bool { return t.form == formInstance || t.form == formManaged }
