package awscloud

import (
	"regexp"
	"strings"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// form is what a target is looked up by.
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
	form    form
	base    string // the name without suffixes: id, Name, address, DNS name; the value of a tag
	key     string // of formTag
	region  string // "" means any
	account string // alias or number; "" means any
}

var ipNamePattern = regexp.MustCompile(`^ip-([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})-([0-9]{1,3})$`)

// parseTarget reads a name and its optional .region and .account suffixes, in either order. isAccount says which labels are accounts: a Name tag that
// ends in such a label cannot be reached by that name alone, which is the price of suffixes.
func parseTarget(typed string, isAccount func(label string) bool) (target, error) {
	name, err := authz.ParseTarget(typed)
	if err != nil {
		return target{}, err
	}
	t := target{base: name.Value}
	suffix := name.Suffix
	if name.Kind == authz.TargetByName || name.Kind == authz.TargetByTag {
		t.base, suffix = authz.SplitSuffix(name.Value, func(label string) bool { return isRegion(label) || isAccount(label) })
	}
	for _, label := range suffix {
		switch {
		case isRegion(label) && t.region == "":
			t.region = strings.ToLower(label)
		case isAccount(label) && t.account == "":
			t.account = label
		default:
			return target{}, &authz.Refusal{Reason: authz.ReasonBadTargetName, Subject: typed, Detail: label + " is not a region or account, or one too many"}
		}
	}
	switch name.Kind {
	case authz.TargetByID:
		t.form = formInstance
		if strings.HasPrefix(t.base, managedPrefix) {
			t.form = formManaged
		}
	case authz.TargetByAddress:
		t.form = formAddress
	case authz.TargetByTag:
		t.readTag(name.TagKey)
	default:
		t.readName()
	}
	return t, nil
}

func isRegion(label string) bool { return regionPattern.MatchString(strings.ToLower(label)) }

// readName tells the names that EC2 gives from those that people give.
func (t *target) readName() {
	lower := strings.ToLower(t.base)
	if m := ipNamePattern.FindStringSubmatch(lower); m != nil { // the first label of a DNS name made of the address, which is what prompts and logs show
		t.form, t.base = formAddress, strings.Join(m[1:], ".")
	} else if strings.HasSuffix(lower, ".internal") {
		t.form, t.base = formDNS, lower
	}
}

// readTag moves the colons of AWS's own keys, such as aws:autoscaling:groupName, back to the key: no key is just "aws", the prefix is reserved.
func (t *target) readTag(key string) {
	t.form, t.key = formTag, key
	if colon := strings.LastIndexByte(t.base, ':'); colon > 0 && strings.EqualFold(key, "aws") {
		t.key, t.base = key+":"+t.base[:colon], t.base[colon+1:]
	}
}

// unique reports whether at most one machine in the world can have the name, so that the first place that knows it ends the search.
func (t *target) unique() bool { return t.form == formInstance || t.form == formManaged }
