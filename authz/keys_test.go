package authz

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// signer makes a fresh key.
func signer(t testing.TB, kind string) ssh.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	case "ecdsa":
		key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "rsa2048":
		key, err = rsa.GenerateKey(rand.Reader, 2048)
	case "rsa1024":
		t.Setenv("GODEBUG", "rsa1024min=0")
		key, err = rsa.GenerateKey(rand.Reader, 1024)
	default:
		t.Fatalf("no key kind %q", kind)
	}
	if err != nil {
		t.Fatal(err)
	}
	s, err := ssh.NewSignerFromSigner(key)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// skKey makes the public half of a FIDO key (OpenSSH PROTOCOL.u2f): x/crypto can verify such keys but not make them.
func skKey(t testing.TB, application string) ssh.PublicKey {
	t.Helper()
	pub, _, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.ParsePublicKey(ssh.Marshal(struct {
		Type        string
		Key         []byte
		Application string
	}{ssh.KeyAlgoSKED25519, pub, application}))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// keyText is a key as a line of authorized_keys.
func keyText(key ssh.PublicKey) string {
	return strings.TrimSuffix(string(ssh.MarshalAuthorizedKey(key)), "\n")
}

func parseOne(t testing.TB, line string) *keyLine {
	t.Helper()
	k, col, err := parseKeyLine(line, minRSABits)
	if err != nil {
		t.Fatalf("%q: column %d: %v", line, col, err)
	}
	return k
}

func TestKeyOptions(t *testing.T) {
	key := keyText(signer(t, "ed25519").PublicKey())
	none := ChannelGrants{}
	for _, c := range []struct {
		options string
		want    ChannelGrants
	}{
		{"", allGrants()},
		{"restrict ", none},
		{"RESTRICT,PTY ", ChannelGrants{PTY: true}},
		{"restrict,port-forwarding,Agent-Forwarding,X11-forwarding,user-rc ", ChannelGrants{PortForwarding: true, AgentForwarding: true, X11Forwarding: true}},
		{"pty,restrict ", none}, // in order, as sshd reads them
		{"no-pty,no-port-forwarding,no-agent-forwarding,no-X11-forwarding,no-user-rc\t", none},
		{
			`command="echo \"a, b\" \n",no-pty `,
			ChannelGrants{PortForwarding: true, AgentForwarding: true, X11Forwarding: true, ForceCommand: `echo "a, b" \n`},
		},
		{
			`restrict,permitopen="db:5432",permitopen="[fd12::1]:*",permitlisten="8080",permitlisten="localhost:*" `,
			ChannelGrants{PermitOpen: []string{"db:5432", "[fd12::1]:*"}, PermitListen: []string{"*:8080", "localhost:*"}},
		},
		{`environment="A=b",tunnel="1",no-touch-required,no-verify-required `, allGrants()},
	} {
		if got := parseOne(t, c.options+key).grants; !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v, want %+v", c.options, got, c.want)
		}
	}
	line := parseOne(t, `cert-authority,principals="a,b",no-touch-required `+key+" a comment  with blanks")
	if !line.certAuthority || !reflect.DeepEqual(line.principals, []string{"a", "b"}) || !line.touchWaived || line.comment != "a comment  with blanks" {
		t.Errorf("%+v", line)
	}
}

func TestKeyLineRefusals(t *testing.T) {
	ed := signer(t, "ed25519")
	key := keyText(ed.PublicKey())
	cert := certificate(t, ed.PublicKey(), signer(t, "ed25519"), nil)
	other := strings.Replace(key, "ssh-ed25519", "ssh-rsa", 1)
	for _, c := range []struct {
		line string
		col  int
		want string
	}{
		{"  nonsense " + key, 3, `unknown option "nonsense"`},
		{"restrict,nonsense " + key, 10, `unknown option "nonsense"`},
		{"restrict,pty,VERIFY-required " + key, 14, "verify-required cannot be enforced"},
		{"restrict, " + key, 10, `unknown option ""`},
		{`command=true ` + key, 1, "the value of command needs quotes"},
		{`no-pty,command="true ` + key, 8, "the quotes of command are not closed"},
		{`command ` + key, 1, "command needs a value"},
		{`restrict="yes" ` + key, 1, "restrict takes no value"},
		{`command="a",command="b" ` + key, 13, "command= is given twice"},
		{`command="" ` + key, 1, "command= is empty"},
		{`from="10.0.0.0/8",from="::1" ` + key, 19, "from= is given twice"},
		{`from="10.0.0.1/8" ` + key, 1, "bits set beyond its mask"},
		{`from="10.0.0.0/33" ` + key, 1, "not an address or network"},
		{`from="a,,b" ` + key, 1, "empty entry"},
		{`expiry-time="tomorrow" ` + key, 1, "is not YYYYMMDD"},
		{`expiry-time="20261340" ` + key, 1, "is not YYYYMMDD"},
		{`principals="" ` + key, 1, "principals= has an empty name"},
		{`permitopen="db" ` + key, 1, "is not host:port"},
		{`permitopen=":22" ` + key, 1, "is not host:port"},
		{`permitopen="db:0" ` + key, 1, "the port is neither"},
		{`permitlisten="localhost:99999" ` + key, 1, "the port is neither"},
		{strings.Repeat(`permitopen="a:1",`, 4096) + `permitopen="a:1" ` + key, 4096*17 + 1, "more than 4096 times permitopen"},
		{strings.Repeat(`permitlisten="1",`, 4096) + `permitlisten="1" ` + key, 4096*17 + 1, "more than 4096 times permitlisten"},
		{`principals="a",principals="b" ` + key, 16, "principals= is given twice"},
		{`permitlisten="[::1" ` + key, 1, "is not host:port"},
		{"restrict", 9, "options without a key"},
		{"ssh-ed25519 !!!!", 1, "not base64"},
		{"ssh-ed25519 AAAA", 1, "the key does not parse"},
		{"ssh-ed25519", 1, "the key does not parse"},
		{other, 1, "the line says ssh-rsa but the key is ssh-ed25519"},
		{"restrict ssh-dss AAAAB3NzaC1kc3MAAAAA", 10, `unsupported key type "ssh-dss"`},
		{"no-pty " + keyText(cert), 8, "a certificate is not listed itself"},
		{keyText(skKey(t, "https://example.org")), 1, `a security key made for "https://example.org"`},
		{keyText(signer(t, "rsa1024").PublicKey()), 1, "RSA keys need at least 2048 bits"},
	} {
		lines, findings := parseKeyLines("p", "# first line\n"+c.line, minRSABits)
		if len(lines) != 0 || len(findings) != 1 {
			t.Errorf("%.80q: %d keys, findings %v", c.line, len(lines), findings)
			continue
		}
		if f := findings[0]; f.Line != 2 || f.Col != c.col || !strings.Contains(f.Message, c.want) {
			t.Errorf("%.80q: %v; want column %d and %q", c.line, f, c.col, c.want)
		}
	}
}

func TestKeyLinesGoOnAfterABadOne(t *testing.T) {
	key := keyText(signer(t, "ed25519").PublicKey())
	lines, findings := parseKeyLines("p", "\r\n# x\r\nbad "+key+"\r\n\t"+key+" me\r\n\r\nbad2 "+key+"\n", minRSABits)
	if len(lines) != 1 || lines[0].comment != "me" || len(findings) != 2 || findings[0].Line != 3 || findings[1].Line != 6 {
		t.Fatalf("%d keys, findings %v", len(lines), findings)
	}
}

func TestAcceptedKeyKinds(t *testing.T) {
	for _, key := range []ssh.PublicKey{
		signer(t, "ed25519").PublicKey(), signer(t, "ecdsa").PublicKey(), signer(t, "rsa2048").PublicKey(), skKey(t, "ssh:"), skKey(t, "ssh:work"),
	} {
		if got := parseOne(t, keyText(key)).key; got.Type() != key.Type() {
			t.Errorf("%s read as %s", key.Type(), got.Type())
		}
	}
	if _, _, err := parseKeyLine(keyText(signer(t, "rsa2048").PublicKey()), 3072); err == nil {
		t.Error("a configured RSA minimum of 3072 lets 2048 bits pass")
	}
}

func TestFrom(t *testing.T) {
	for _, c := range []struct {
		list, addr string
		want       bool
	}{
		{"10.0.0.0/8", "10.1.2.3", true},
		{"10.0.0.0/8", "11.1.2.3", false},
		{"10.0.0.0/8", "::ffff:10.1.2.3", true},
		{"10.0.0.0/8,!10.9.0.0/16", "10.9.0.1", false},
		{"!10.9.0.0/16,10.0.0.0/8", "10.9.0.1", false},
		{"!10.9.0.0/16", "10.8.0.1", false}, // nothing positive matched
		{"10.1.*,!10.1.2.?", "10.1.3.3", true},
		{"10.1.*,!10.1.2.?", "10.1.2.3", false},
		{"*", "fd12::1", true},
		{"fd12::/16", "fd12::1", true},
		{"192.0.2.1", "192.0.2.1", true},
		{"192.0.2.1", "192.0.2.10", false},
		{"*.example.org", "192.0.2.1", false}, // names are not looked up
	} {
		list, err := parseFrom(c.list)
		if err != nil {
			t.Fatal(err)
		}
		if got := list.allows(netip.MustParseAddr(c.addr)); got != c.want {
			t.Errorf("from=%q at %s: %v, want %v", c.list, c.addr, got, c.want)
		}
	}
	list, err := parseFrom("*")
	if err != nil || list.allows(netip.Addr{}) {
		t.Errorf("from=\"*\" without an address: allowed (%v)", err)
	}
}

func TestExpiryTime(t *testing.T) {
	for value, want := range map[string]time.Time{
		"20261121Z":       time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC),
		"202611212359Z":   time.Date(2026, 11, 21, 23, 59, 0, 0, time.UTC),
		"20261121235958Z": time.Date(2026, 11, 21, 23, 59, 58, 0, time.UTC),
		"20261121":        time.Date(2026, 11, 21, 0, 0, 0, 0, time.Local),
	} {
		if got, err := parseExpiry(value); err != nil || !got.Equal(want) {
			t.Errorf("%s: %v, %v; want %v", value, got, err, want)
		}
	}
	line := parseOne(t, `expiry-time="20270101Z",expiry-time="20260101Z" `+keyText(signer(t, "ed25519").PublicKey()))
	if line.expiry.Year() != 2026 {
		t.Errorf("of two expiry times %v holds, not the earlier", line.expiry)
	}
}

func TestMatchWildcard(t *testing.T) {
	for _, c := range []struct {
		pattern, s string
		want       bool
	}{
		{"", "", true},
		{"", "a", false},
		{"*", "", true},
		{"**", "abc", true},
		{"a*c", "abbbc", true},
		{"a*c", "abbb", false},
		{"a?c", "abc", true},
		{"a?c", "ac", false},
		{"*a*b", "xaxaxb", true},
		{"*a", "*", false},
		{strings.Repeat("*a", 40) + "b", strings.Repeat("a", 4000), false},
	} {
		if got := matchWildcard(c.pattern, c.s); got != c.want {
			t.Errorf("%q on %q: %v", c.pattern, c.s, got)
		}
	}
}

// Laws of the line parser: no panic, a key only from a line without error, columns within the line, the input's options never lost: a line that
// says verify-required or an unknown word gives no key.
func FuzzKeyLine(f *testing.F) {
	key := "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHTiLF5SqwDpzWA0nFKSLs5XHpDQgEYSnHRHkYAdlyNy"
	for _, seed := range []string{
		key, "restrict,pty " + key + " c", `command="a\"b",from="10.0.0.0/8,!*" ` + key, `permitopen="[::1]:*",expiry-time="20260101Z" ` + key,
		`cert-authority,principals="a,b" ` + key, "verify-required " + key, `x="` + key, "ssh-rsa AAAA", `restrict="" ` + key, ", " + key,
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, line string) {
		if strings.ContainsAny(line, "\n") {
			return
		}
		k, col, err := parseKeyLine(line, minRSABits)
		if (err == nil) == (k == nil) || err != nil && (col < 1 || col > len(line)+1) {
			t.Fatalf("%q: key %v, column %d, error %v", line, k, col, err)
		}
		if err == nil && strings.HasPrefix(strings.ToLower(line), "verify-required") {
			t.Fatalf("%q gave a key", line)
		}
	})
}
