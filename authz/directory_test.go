package authz

import (
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

const (
	roleA = "arn:aws:iam::111122223333:role/gw-a"
	roleB = "arn:aws-us-gov:iam::111122223333:role/path/gw-b"
	roleC = "arn:aws:iam::444455556666:role/gw-c"
)

func TestPlainKeyIdentity(t *testing.T) {
	key, sk := signer(t, "ed25519").PublicKey(), skKey(t, "ssh:")
	d := directory(t, DirectoryConfig{
		Groups: []Group{{Name: "dev", Tags: map[string]string{"team": "dev", "tier": "1"}}, {Name: "admins"}},
		People: []Person{{
			Name: "alice", Keys: []string{"no-pty " + keyText(key), "no-touch-required " + keyText(sk)},
			Groups: []string{"dev", "admins"}, Tags: map[string]string{"Tier": "2"},
		}},
	})
	id, err := d.Identify(key, testSource, testNow)
	if err != nil {
		t.Fatal(err)
	}
	want := &Identity{
		Person: "alice", Groups: []string{"admins", "dev"}, Tags: map[string]string{"team": "dev", "Tier": "2"}, Method: MethodPublicKey,
		Fingerprint: ssh.FingerprintSHA256(key), KeyType: ssh.KeyAlgoED25519, Source: testSource, proof: key,
		Grants: ChannelGrants{PortForwarding: true, AgentForwarding: true, X11Forwarding: true},
	}
	if !reflect.DeepEqual(id, want) {
		t.Errorf("%+v\nwant %+v", id, want)
	}
	fido, err := d.Identify(sk, testSource, testNow)
	if err != nil || fido.Method != MethodSecurityKey || fido.touched() || !d.TouchWaived(sk) || d.TouchWaived(key) {
		t.Errorf("%+v, %v", fido, err)
	}
	if got := d.People(); !reflect.DeepEqual(got, []string{"alice"}) {
		t.Errorf("people %q", got)
	}
}

func TestPlainKeyRefusals(t *testing.T) {
	known, expired, bound, gone := signer(t, "ed25519").PublicKey(), signer(t, "ed25519").PublicKey(), signer(t, "ed25519").PublicKey(), signer(t, "ecdsa").PublicKey()
	stranger := signer(t, "ed25519").PublicKey()
	d := directory(t, DirectoryConfig{
		People: []Person{{Name: "alice", Keys: []string{
			keyText(known), `expiry-time="20261121115959Z" ` + keyText(expired), `from="10.0.0.0/8" ` + keyText(bound) + "\n" + keyText(gone),
		}}},
		RevokedKeys: [][]byte{nil, []byte(keyText(gone))},
	})
	for _, c := range []struct {
		name      string
		key       ssh.PublicKey
		candidate bool
		want      Reason
	}{
		{"known", known, true, ""},
		{"stranger", stranger, false, ReasonUnknownKey},
		// Only who proves the key learns that it is expired, revoked or bound elsewhere.
		{"expired", expired, true, ReasonCertificateExpired},
		{"bound elsewhere", bound, true, ReasonSourceAddress},
		{"revoked", gone, true, ReasonRevoked},
		{"stranger's certificate", certificate(t, known, signer(t, "ed25519"), nil), false, ReasonCertificateInvalid},
		{"certificate signed by a known plain key", certificate(t, stranger, mustSigner(t), nil), false, ReasonCertificateInvalid},
	} {
		if got := d.Candidate(c.key, testNow); got != c.candidate {
			t.Errorf("%s: candidate is %v", c.name, got)
		}
		id, err := d.Identify(c.key, testSource, testNow)
		if (id == nil) != (c.want != "") || reasonOf(err) != c.want {
			t.Errorf("%s: %+v, %v; want %q", c.name, id, err, c.want)
		}
	}
	if _, err := d.Identify(expired, testSource, testNow.Add(-2*time.Second)); err != nil {
		t.Errorf("before its expiry-time: %v", err)
	}
	if _, err := d.Identify(bound, netip.MustParseAddrPort("[::ffff:10.0.0.1]:9"), testNow); err != nil {
		t.Errorf("from within its network: %v", err)
	}
}

func mustSigner(t testing.TB) ssh.Signer { return signer(t, "ed25519") }

func TestRevokedCertificates(t *testing.T) {
	dir := t.TempDir()
	mustKeygen(t, dir, "-q", "-t", "ed25519", "-N", "", "-f", "ca")
	mustKeygen(t, dir, "-q", "-t", "ed25519", "-N", "", "-f", "u")
	mustKeygen(t, dir, "-q", "-s", "ca", "-I", "x", "-z", "5", "-n", "alice", "u.pub")
	ca, cert := string(readFile(t, dir, "ca.pub")), readKey(t, dir, "u-cert.pub")
	list := func(spec string) []byte {
		if err := os.WriteFile(filepath.Join(dir, "spec"), []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
		mustKeygen(t, dir, "-q", "-k", "-f", "krl", "-s", "ca.pub", "spec")
		return readFile(t, dir, "krl")
	}
	for name, c := range map[string]struct {
		list []byte
		want Reason
	}{
		"other serial": {list("serial: 6\n"), ""},
		"serial":       {list("serial: 5\n"), ReasonRevoked},
		"key":          {list("sha256: " + string(readFile(t, dir, "u.pub"))), ReasonRevoked},
		"authority":    {list("key: " + ca), ReasonRevoked},
		"plain list":   {[]byte(ca), ReasonRevoked},
	} {
		d := directory(t, DirectoryConfig{People: []Person{alice()}, UserCAs: []string{ca}, RevokedKeys: [][]byte{[]byte("# empty\n"), c.list}})
		if _, err := d.Identify(cert, testSource, time.Now()); reasonOf(err) != c.want {
			t.Errorf("%s: %v, want %q", name, err, c.want)
		}
		if !d.Candidate(cert, time.Now()) {
			t.Errorf("%s: no candidate, so nobody would be told why", name)
		}
	}
}

func TestStillValid(t *testing.T) {
	key := signer(t, "ed25519").PublicKey()
	with := func(name, options string, revoked ...[]byte) *Directory {
		return directory(t, DirectoryConfig{
			People: []Person{{Name: name, Keys: []string{options + keyText(key)}}, {Name: "zoe"}}, RevokedKeys: revoked,
		})
	}
	id, err := with("alice", `no-pty,permitopen="db:1" `).Identify(key, testSource, testNow)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		next *Directory
		want Reason
	}{
		{"the same", with("alice", `no-pty,permitopen="db:1" `), ""},
		{"more rights", with("alice", ""), ""},
		{"one more destination", with("alice", `permitopen="db:2",permitopen="db:1" `), ""},
		{"another destination", with("alice", `permitopen="db:2" `), ReasonRevoked},
		{"no restriction before, one now", with("alice", `no-pty,permitopen="db:1",permitlisten="1" `), ReasonRevoked},
		{"no forwarding", with("alice", "no-port-forwarding "), ReasonRevoked},
		{"a forced command", with("alice", `command="x" `), ReasonRevoked},
		{"somebody else's", with("bob", ""), ReasonRevoked},
		{"elsewhere", with("alice", `from="10.0.0.0/8" `), ReasonSourceAddress},
		{"revoked", with("alice", "", []byte(keyText(key))), ReasonRevoked},
		{"expired", with("alice", `expiry-time="20260101Z" `), ReasonCertificateExpired},
		{"removed", directory(t, DirectoryConfig{}), ReasonUnknownKey},
	} {
		if err := c.next.StillValid(id, testNow); reasonOf(err) != c.want || (err == nil) != (c.want == "") {
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		}
	}
}

func TestHypothetical(t *testing.T) {
	d := directory(t, DirectoryConfig{People: []Person{{Name: "alice", Groups: []string{"dev"}}}, Groups: []Group{{Name: "dev", Role: roleA}}})
	id, err := d.Hypothetical("alice", netip.AddrPort{})
	if err != nil || id.Person != "alice" || !reflect.DeepEqual(id.Groups, []string{"dev"}) || !id.Grants.PTY {
		t.Errorf("%+v, %v", id, err)
	}
	if err := d.StillValid(id, testNow); reasonOf(err) != ReasonUnknownKey {
		t.Errorf("a hypothetical identity may live: %v", err)
	}
	if err := d.StillValid(nil, testNow); reasonOf(err) != ReasonUnknownKey {
		t.Errorf("nobody may live: %v", err)
	}
	if _, err := d.Hypothetical("mallory", netip.AddrPort{}); reasonOf(err) != ReasonUnknownKey {
		t.Errorf("mallory: %v", err)
	}
}

func TestRoleFor(t *testing.T) {
	account := "111122223333"
	groups := []Group{
		{Name: "a", Role: roleA},
		{Name: "b", Role: roleB},
		{Name: "prod", Roles: map[string]string{"prod": roleC}},
		{Name: "split", Roles: map[string]string{"prod": roleC, account: roleA}},
		{Name: "label"},
	}
	for _, c := range []struct {
		name   string
		person Person
		want   string
		reason Reason
	}{
		{"person, by id", Person{Role: roleB, Roles: map[string]string{account: roleA}, Groups: []string{"b"}}, roleA, ""},
		{"person, by alias", Person{Role: roleB, Roles: map[string]string{"prod": roleA}}, roleA, ""},
		{"person, both and the same", Person{Roles: map[string]string{"prod": roleA, account: roleA}}, roleA, ""},
		{"person, both and different", Person{Roles: map[string]string{"prod": roleA, account: roleB}}, "", ReasonNoRole},
		{"person, another account", Person{Role: roleB, Roles: map[string]string{"dev": roleA}}, roleB, ""},
		{"group", Person{Groups: []string{"label", "a"}}, roleA, ""},
		{"group, by account", Person{Groups: []string{"prod"}}, roleC, ""},
		{"groups that differ", Person{Groups: []string{"a", "b"}}, "", ReasonNoRole},
		{"groups that differ, but the person has one", Person{Role: roleC, Groups: []string{"a", "b"}}, roleC, ""},
		{"a group at odds with itself", Person{Groups: []string{"split"}}, "", ReasonNoRole},
		{"nothing", Person{Groups: []string{"label"}}, "", ReasonNoRole},
	} {
		c.person.Name = "alice"
		d := directory(t, DirectoryConfig{People: []Person{c.person}, Groups: groups, ExternalIDs: map[string]string{"prod": "xyz"}})
		role, err := d.RoleFor(&Identity{Person: "alice", Tags: map[string]string{"k": "v"}}, "prod", account)
		if reasonOf(err) != c.reason {
			t.Errorf("%s: %v, want %q", c.name, err, c.reason)
			continue
		}
		want := Role{}
		if c.want != "" {
			want = Role{ARN: c.want, SessionName: "alice", SourceIdentity: "alice", ExternalID: "xyz", Tags: map[string]string{"k": "v"}}
		}
		if !reflect.DeepEqual(role, want) {
			t.Errorf("%s: %+v, want %+v", c.name, role, want)
		}
	}
}

func TestRoleForAmbient(t *testing.T) {
	d := directory(t, DirectoryConfig{People: []Person{{Name: "alice"}, {Name: "bob", Groups: []string{"a", "b"}}}, Groups: []Group{
		{Name: "a", Role: roleA},
		{Name: "b", Role: roleB},
	}, AmbientCredentials: true})
	if role, err := d.RoleFor(&Identity{Person: "alice"}, "", "111122223333"); err != nil || !reflect.DeepEqual(role, Role{}) {
		t.Errorf("%+v, %v", role, err)
	}
	// A contradiction is no gap that ambient credentials may fill.
	if _, err := d.RoleFor(&Identity{Person: "bob"}, "", "111122223333"); reasonOf(err) != ReasonNoRole {
		t.Errorf("contradicting groups: %v", err)
	}
	if _, err := d.RoleFor(&Identity{Person: "gone"}, "", "111122223333"); reasonOf(err) != ReasonNoRole {
		t.Errorf("a person no longer configured: %v", err)
	}
}

// Everything wrong is found in one go, each with its path.
func TestDirectoryFindings(t *testing.T) {
	key, key2, ca := keyText(signer(t, "ed25519").PublicKey()), keyText(signer(t, "ed25519").PublicKey()), keyText(signer(t, "ed25519").PublicKey())
	_, err := NewDirectory(DirectoryConfig{
		Groups: []Group{
			{Name: "dev", Tags: map[string]string{"team": "a"}},
			{Name: "dev"},
			{Name: "bad name", Role: "admin", Roles: map[string]string{"prod": "arn:aws:iam::1:role/x"}},
			{Name: "ops", Tags: map[string]string{"Team": "b"}},
		},
		People: []Person{
			{Name: "a"},
			{Name: "aws:x"},
			{Name: "alice", Keys: []string{key, "nonsense " + key2, "\n\nrestrict,x " + key2}, Principals: []string{"p", ""}, Groups: []string{"nobody"}},
			{Name: "bob", Keys: []string{key, "", `principals="x" ` + key2, "cert-authority " + ca}, Role: roleA + "/"},
			{Name: "alice", Principals: []string{"p", "p"}, Tags: map[string]string{"aws:x": "1", "K": "", "k": "", "": "x", "b": "a\x00"}},
			{Name: "carol", Principals: []string{"p"}, Groups: []string{"dev", "ops", "ops"}},
		},
		UserCAs:     []string{ca, "ssh-ed25519 AAAA", "#"},
		RevokedKeys: [][]byte{[]byte("SSHKRL\n\x00"), []byte("x")},
	})
	var got []string
	for _, f := range Findings(err) {
		got = append(got, f.Error())
	}
	for _, want := range []string{
		`group[1].name: group "dev" is there twice`,
		`group[2].name: group name "bad name"`,
		`group[2].role: "admin" is not the ARN of an IAM role`,
		`group[2].roles.prod: "arn:aws:iam::1:role/x" is not the ARN`,
		`person[0].name: name "a": 2 to 64`,
		`person[1].name: name "aws:x": 2 to 64`,
		`person[2].keys[1]:1:1: unknown option "nonsense"`,
		`person[2].keys[2]:3:10: unknown option "x"`,
		`person[2].principals[1]: an empty principal`,
		`person[2].groups[0]: no group "nobody"`,
		`person[3].keys[0]: key SHA256:`,
		`person[3].keys[1]: no key in it`,
		`person[3].keys[2]: principals= has a meaning only with cert-authority`,
		`person[3].keys[3]: a certificate authority for bob needs principals=`,
		`person[3].role: `,
		`person[4].name: person "alice" is there twice`,
		`person[4].tags.aws:x: tag keys beginning with aws:`,
		`person[4].tags.k: STS takes tag keys for equal`,
		`person[4].tags.: not a session tag`,
		`person[4].tags.b: not a session tag`,
		`person[5].principals[0]: principal "p" is alice's already`,
		`person[5].groups[1]: groups "dev" and "ops" set tag "Team" differently`,
		`person[5].groups[2]: no group "ops" is configured, or it is there twice`,
		`user_cas[1]:1:1: the key does not parse`,
		`user_cas[2]: no key in it`,
		`revoked_keys[0]: read key revocation list: cut short`,
		`revoked_keys[1]:1: neither a public key nor a SHA256 fingerprint`,
	} {
		found := false
		for i, g := range got {
			if strings.HasPrefix(g, want) {
				got = append(got[:i], got[i+1:]...)
				found = true
				break
			}
		}
		if !found {
			t.Errorf("no finding %q", want)
		}
	}
	if len(got) > 0 {
		t.Errorf("also found:\n%s", strings.Join(got, "\n"))
	}
}

// A directory does not change with the configuration it came from.
func TestDirectoryIsASnapshot(t *testing.T) {
	cfg := DirectoryConfig{
		People: []Person{{Name: "alice", Groups: []string{"dev"}, Roles: map[string]string{"prod": roleA}, Tags: map[string]string{"k": "v"}}},
		Groups: []Group{{Name: "dev"}, {Name: "ops"}},
	}
	d := directory(t, cfg)
	cfg.People[0].Groups[0], cfg.People[0].Roles["prod"], cfg.People[0].Tags["k"] = "ops", roleB, "x"
	id, err := d.Hypothetical("alice", netip.AddrPort{})
	if err != nil || id.Groups[0] != "dev" || id.Tags["k"] != "v" {
		t.Errorf("%+v, %v", id, err)
	}
	if role, err := d.RoleFor(id, "prod", ""); err != nil || role.ARN != roleA {
		t.Errorf("%+v, %v", role, err)
	}
}
