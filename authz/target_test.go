package authz

import (
	"errors"
	"net/netip"
	"reflect"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

const (
	shortID = "i-0abc1234"
	longID  = "i-0123456789abcdef0"
	nodeID  = "mi-0123456789abcdef0"
)

func TestParseTarget(t *testing.T) {
	for _, c := range []struct {
		name string
		want TargetName
	}{
		{shortID, TargetName{Kind: TargetByID, Value: shortID}},
		{longID, TargetName{Kind: TargetByID, Value: longID}},
		{nodeID, TargetName{Kind: TargetByID, Value: nodeID}},
		{strings.ToUpper(longID), TargetName{Kind: TargetByID, Value: longID}},
		{longID + ".Prod.eu-west-1", TargetName{Kind: TargetByID, Value: longID, Suffix: []string{"prod", "eu-west-1"}}},
		{"10.1.2.3", TargetName{Kind: TargetByAddress, Value: "10.1.2.3", Address: netip.MustParseAddr("10.1.2.3")}},
		{
			"10.1.2.3.eu-west-1",
			TargetName{Kind: TargetByAddress, Value: "10.1.2.3", Address: netip.MustParseAddr("10.1.2.3"), Suffix: []string{"eu-west-1"}},
		},
		{
			"10.1.2.3.111122223333",
			TargetName{Kind: TargetByAddress, Value: "10.1.2.3", Address: netip.MustParseAddr("10.1.2.3"), Suffix: []string{"111122223333"}},
		},
		{"::ffff:10.1.2.3", TargetName{Kind: TargetByAddress, Value: "10.1.2.3", Address: netip.MustParseAddr("10.1.2.3")}},
		{"FD12::1", TargetName{Kind: TargetByAddress, Value: "fd12::1", Address: netip.MustParseAddr("fd12::1")}},
		{"Env:dev", TargetName{Kind: TargetByTag, TagKey: "Env", Value: "dev"}},
		{"team/x:a.b:c", TargetName{Kind: TargetByTag, TagKey: "team/x", Value: "a.b:c"}},
		{"Web-1", TargetName{Kind: TargetByName, Value: "Web-1"}},
		{"web.prod.eu-west-1", TargetName{Kind: TargetByName, Value: "web.prod.eu-west-1"}},
		{"ip-10-1-2-3.eu-west-1.compute.internal", TargetName{Kind: TargetByName, Value: "ip-10-1-2-3.eu-west-1.compute.internal"}},
		{"i-abc", TargetName{Kind: TargetByName, Value: "i-abc"}}, // a name may look a little like an id
		{strings.Repeat("a", 255), TargetName{Kind: TargetByName, Value: strings.Repeat("a", 255)}},
	} {
		got, err := ParseTarget(c.name)
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("ParseTarget(%q) = %+v, %v; want %+v", c.name, got, err, c.want)
		}
	}
}

func TestParseTargetRefuses(t *testing.T) {
	for _, name := range []string{
		"", strings.Repeat("a", 256), "a b", "a\nb", "a\x00b", "a\x1b[0m", "\u0456-0abc1234", "i-0abc1234@x", "-oProxyCommand=x", "a;b", "$(id)", "a%b", "a'b",
		".", "a..b", "a.", ".a",
		"localhost", "LocalHost", "x.localhost", "ip6-localhost", "metadata.google.internal", "instance-data",
		"127.0.0.1", "127.8.8.8", "::1", "0.0.0.0", "::", "169.254.169.254", "169.254.170.2", "::ffff:169.254.169.254", "fe80::1", "fe80::1%eth0",
		"fd00:ec2::254", "FD00:EC2:0:0::23", "224.0.0.1", "255.255.255.255", "169.254.169.254.prod",
		"127.1", "2130706433", "0x7f000001", "0177.0.0.1", "1.2.3.4.5.6",
		":x", "x:", longID + ".a.b.c", longID + ".a+b",
	} {
		got, err := ParseTarget(name)
		var refusal *Refusal
		if !errors.As(err, &refusal) || refusal.Reason != ReasonBadTargetName || !reflect.DeepEqual(got, TargetName{}) {
			t.Errorf("ParseTarget(%q) = %+v, %v; want a refusal with %s", name, got, err, ReasonBadTargetName)
		}
	}
}

func TestSplitSuffix(t *testing.T) {
	known := func(label string) bool { return label == "prod" || label == "eu-west-1" }
	for _, c := range []struct {
		name, base string
		suffix     []string
	}{
		{"web", "web", nil},
		{"web.1", "web.1", nil},
		{"web.prod", "web", []string{"prod"}},
		{"web.1.prod.eu-west-1", "web.1", []string{"prod", "eu-west-1"}},
		{"prod.prod.prod.prod", "prod.prod", []string{"prod", "prod"}},
		{"prod", "prod", nil},
		{".prod", ".prod", nil},
	} {
		base, suffix := SplitSuffix(c.name, known)
		if base != c.base || !reflect.DeepEqual(suffix, c.suffix) {
			t.Errorf("SplitSuffix(%q) = %q, %q; want %q, %q", c.name, base, suffix, c.base, c.suffix)
		}
	}
}

func TestParseOSUser(t *testing.T) {
	for _, good := range []string{"a", "ec2-user", "_x", "svc$", "a.b@corp.example", strings.Repeat("a", 32)} {
		if got, err := ParseOSUser(good); got != good || err != nil {
			t.Errorf("ParseOSUser(%q) = %q, %v", good, got, err)
		}
	}
	for _, bad := range []string{"", "1a", "-a", "a b", "a$b", "a%", "a+b", "a\n", "ä", strings.Repeat("a", 33), "@x"} {
		got, err := ParseOSUser(bad)
		var refusal *Refusal
		if got != "" || !errors.As(err, &refusal) || refusal.Reason != ReasonBadOSUser {
			t.Errorf("ParseOSUser(%q) = %q, %v; want a refusal with %s", bad, got, err, ReasonBadOSUser)
		}
	}
}

func TestParseLogin(t *testing.T) {
	for _, c := range []struct {
		login, osUser, target string
		ok                    bool
	}{
		{"ec2-user@i-abc", "ec2-user", "i-abc", true},
		{"a@corp@i-abc", "a@corp", "i-abc", true}, // directory users have an @ of their own
		{"ec2-user+i-abc", "ec2-user", "i-abc", true},
		{"ec2-user%i-abc", "ec2-user", "i-abc", true},
		{"ec2-user+a+b", "ec2-user", "a+b", true},
		{"a+b@i-abc", "a+b", "i-abc", true}, // @ goes first; ParseOSUser refuses a+b
		{"alice", "", "", false},
		{"@i-abc", "", "", false},
		{"ec2-user@", "", "", false},
		{"", "", "", false},
		{"a@" + strings.Repeat("b", 500), "", "", false},
	} {
		osUser, target, ok := ParseLogin(c.login)
		if osUser != c.osUser || target != c.target || ok != c.ok {
			t.Errorf("ParseLogin(%q) = %q, %q, %v; want %q, %q, %v", c.login, osUser, target, ok, c.osUser, c.target, c.ok)
		}
	}
}

// Whatever OS user Instance Connect accepts comes out again, whichever separator is used and where it may be.
func TestParseLoginGivesBackItsHalves(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		osUser := rapid.StringMatching(`[A-Za-z_][A-Za-z0-9@._-]{0,20}[A-Za-z0-9$_-]`).Draw(t, "osUser")
		target := rapid.StringMatching(`[A-Za-z0-9][A-Za-z0-9._:/+=-]{0,40}`).Draw(t, "target")
		separators := []string{"@"}
		if !strings.Contains(osUser, "@") {
			separators = append(separators, "+", "%")
		}
		login := osUser + rapid.SampledFrom(separators).Draw(t, "separator") + target
		gotUser, gotTarget, ok := ParseLogin(login)
		if !ok || gotUser != osUser || gotTarget != target {
			t.Fatalf("ParseLogin(%q) = %q, %q, %v", login, gotUser, gotTarget, ok)
		}
	})
}

// Laws of ParseTarget: what is accepted is short printable ASCII, never the gateway's own host, and its canonical value means the same again.
func FuzzParseTarget(f *testing.F) {
	for _, seed := range []string{
		longID, nodeID + ".prod", "10.0.0.1.eu-west-1", "Env:dev", "web.prod", "169.254.169.254", "::ffff:127.0.0.1", "0x7f.1", "i-0abc1234.", "a\x00", "fd00:ec2::254",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, name string) {
		got, err := ParseTarget(name)
		if err != nil {
			var refusal *Refusal
			if !errors.As(err, &refusal) || refusal.Reason != ReasonBadTargetName {
				t.Fatalf("%q: error without its reason: %v", name, err)
			}
			if strings.ContainsFunc(refusal.Subject, func(r rune) bool { return r < 0x20 || r > 0x7e }) {
				t.Fatalf("%q: the refusal repeats control characters: %q", name, refusal.Subject)
			}
			return
		}
		if len(name) > maxTarget || strings.ContainsFunc(name, func(r rune) bool { return r <= 0x20 || r > 0x7e || r == '@' || r == '%' }) {
			t.Fatalf("accepted %q", name)
		}
		if got.Kind == TargetByAddress && (got.Address.IsLoopback() || got.Address.IsLinkLocalUnicast() || got.Address.IsUnspecified()) {
			t.Fatalf("%q means the gateway's own host", name)
		}
		if got.Kind == TargetByTag {
			return
		}
		again, err := ParseTarget(got.Value)
		again.Suffix = got.Suffix
		if err != nil || !reflect.DeepEqual(again, got) {
			t.Fatalf("%q: %+v, and its value %+v, %v", name, got, again, err)
		}
	})
}

// Laws of ParseLogin: the halves and one separator are the login, and no half of it is empty.
func FuzzParseLogin(f *testing.F) {
	for _, seed := range []string{"ec2-user@i-abc", "a@b@c", "a+b", "a%b", "a@", "@", "a\x00@b\x1b", "alice"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, login string) {
		osUser, target, ok := ParseLogin(login)
		if !ok {
			if osUser != "" || target != "" {
				t.Fatalf("%q: halves without ok", login)
			}
			return
		}
		if osUser == "" || target == "" || len(osUser)+1+len(target) != len(login) || !strings.HasPrefix(login, osUser) || !strings.HasSuffix(login, target) {
			t.Fatalf("%q: %q and %q", login, osUser, target)
		}
		if strings.Contains(target, "@") {
			t.Fatalf("%q: not split at the last @", login)
		}
	})
}
