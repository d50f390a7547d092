package authz

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
)

// keygen runs OpenSSH's ssh-keygen in a directory: the independent maker of the keys, certificates and lists read here.
func keygen(t testing.TB, dir string, args ...string) (output string, ok bool) {
	t.Helper()
	path, err := exec.LookPath("ssh-keygen")
	if err != nil {
		t.Fatalf("these tests need OpenSSH's ssh-keygen: %v", err)
	}
	cmd := exec.Command(path, args...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "TZ=UTC")
	out, err := cmd.CombinedOutput()
	return string(out), err == nil
}

func mustKeygen(t testing.TB, dir string, args ...string) {
	t.Helper()
	if out, ok := keygen(t, dir, args...); !ok {
		t.Fatalf("ssh-keygen %s: %s", strings.Join(args, " "), out)
	}
}

func readFile(t testing.TB, dir, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func readKey(t testing.TB, dir, name string) ssh.PublicKey {
	t.Helper()
	key, _, _, _, err := ssh.ParseAuthorizedKey(readFile(t, dir, name))
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// Certificates as ssh-keygen makes them, of every key and CA type it knows without hardware.
func TestKeygenCertificates(t *testing.T) {
	dir := t.TempDir()
	now := time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)
	for _, kind := range []string{"ed25519", "rsa", "ecdsa"} {
		mustKeygen(t, dir, "-q", "-t", kind, "-N", "", "-f", "ca-"+kind)
		mustKeygen(t, dir, "-q", "-t", kind, "-N", "", "-f", "user-"+kind)
		mustKeygen(t, dir, "-q", "-s", "ca-"+kind, "-I", "alice@laptop", "-z", "42", "-n", "alice-admin,unknown", "-V", "20261121115500:20261121125500",
			"-O", "clear", "-O", "permit-pty", "-O", "permit-X11-forwarding", "-O", "force-command=uptime", "-O", "source-address=192.0.2.0/24", "user-"+kind+".pub")
		d := directory(t, DirectoryConfig{People: []Person{alice()}, UserCAs: []string{string(readFile(t, dir, "ca-"+kind+".pub"))}})
		id, err := d.Identify(readKey(t, dir, "user-"+kind+"-cert.pub"), testSource, now)
		if err != nil {
			t.Errorf("%s: %v", kind, err)
			continue
		}
		if want := (ChannelGrants{PTY: true, X11Forwarding: true, ForceCommand: "uptime"}); id.Person != "alice" || !reflect.DeepEqual(id.Grants, want) {
			t.Errorf("%s: %+v", kind, id)
		}
		if id.Certificate.Serial != 42 || id.Certificate.KeyID != "alice@laptop" || id.Fingerprint != ssh.FingerprintSHA256(readKey(t, dir, "user-"+kind+".pub")) {
			t.Errorf("%s: %+v", kind, id.Certificate)
		}
		elsewhere := netip.MustParseAddrPort("198.51.100.1:1")
		if _, err := d.Identify(readKey(t, dir, "user-"+kind+"-cert.pub"), elsewhere, now); reasonOf(err) != ReasonSourceAddress {
			t.Errorf("%s from elsewhere: %v", kind, err)
		}
	}
}

// Lists as ssh-keygen makes them, judged by ssh-keygen -Q: for each key and certificate, its verdict and ours must be the same.
func TestKRLAgainstKeygen(t *testing.T) {
	dir := t.TempDir()
	shown := krlKeys(t, dir)
	for name, spec := range map[string]string{
		"nothing":        "",
		"serial":         "serial: 5\n",
		"serials":        "serial: 1\nserial: 5\nserial: 1000000\n",
		"range":          "serial: 4-9\n",
		"sparse serials": "serial: 1\nserial: 3\nserial: 5\nserial: 7\nserial: 9\nserial: 11\nserial: 40\nserial: 60\nserial: 64\n", // a bitmap is shortest
		"high serials":   "serial: 18446744073709551615\nserial: 9223372036854775808-9223372036854775810\n",
		"key id":         "id: id-5\nid: other\n",
		"key":            "key: " + string(readFile(t, dir, "u2.pub")),
		"ca":             "key: " + string(readFile(t, dir, "ca1.pub")),
		"sha1":           "sha1: " + string(readFile(t, dir, "u2.pub")),
		"sha256":         "sha256: " + string(readFile(t, dir, "u1.pub")),
		"hash":           "hash: " + ssh.FingerprintSHA256(readKey(t, dir, "u2.pub")) + "\n",
		"mixture": "serial: 5-7\nserial: 64\nid: id-9\nsha256: " + string(readFile(t, dir, "u2.pub")) +
			"key: " + string(readFile(t, dir, "ca2.pub")),
	} {
		for _, ca := range []string{"ca1", "none"} {
			t.Run(name+" of "+ca, func(t *testing.T) {
				compareKRL(t, dir, spec, ca, shown)
			})
		}
	}
}

// krlKeys makes two authorities, two keys, and certificates with telling serials; it gives the names of all public files.
func krlKeys(t *testing.T, dir string) []string {
	t.Helper()
	for _, name := range []string{"ca1", "ca2", "u1", "u2"} {
		mustKeygen(t, dir, "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", name)
	}
	shown := []string{"u1.pub", "u2.pub"}
	for _, c := range []struct{ ca, key, serial string }{
		{"ca1", "u1", "0"},
		{"ca1", "u1", "1"},
		{"ca1", "u1", "5"},
		{"ca1", "u1", "9"},
		{"ca1", "u1", "64"},
		{"ca1", "u1", "65"},
		{"ca1", "u1", "1000000"},
		{"ca1", "u1", "9223372036854775809"},
		{"ca1", "u1", "18446744073709551615"},
		{"ca1", "u2", "5"},
		{"ca2", "u1", "5"},
		{"ca2", "u1", "9"},
	} {
		name := strings.Join([]string{c.ca, c.key, c.serial}, "-")
		if err := os.WriteFile(filepath.Join(dir, name+".pub"), readFile(t, dir, c.key+".pub"), 0o600); err != nil {
			t.Fatal(err)
		}
		mustKeygen(t, dir, "-q", "-s", c.ca, "-I", "id-"+c.serial, "-z", c.serial, "-n", "x", name+".pub")
		shown = append(shown, name+"-cert.pub")
	}
	return shown
}

func compareKRL(t *testing.T, dir, spec, ca string, shown []string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, "spec"), []byte(spec), 0o600); err != nil {
		t.Fatal(err)
	}
	args := []string{"-q", "-k", "-f", "krl", "-z", "17"}
	if ca != "none" {
		args = append(args, "-s", ca+".pub")
	} else if strings.Contains(spec, "serial:") || strings.Contains(spec, "id:") {
		args = append(args, "-s", "none") // a list that holds for every authority has to be asked for
	}
	mustKeygen(t, dir, append(args, "spec")...)
	krl, err := ParseKRL(readFile(t, dir, "krl"))
	if err != nil {
		t.Fatal(err)
	}
	if krl.Version != 17 {
		t.Errorf("version %d", krl.Version)
	}
	verdicts, _ := keygen(t, dir, append([]string{"-Q", "-f", "krl"}, shown...)...) // fails when any is revoked
	for _, name := range shown {
		verdict := verdictOf(verdicts, name)
		if verdict != "ok" && verdict != "REVOKED" {
			t.Fatalf("no verdict on %s in %q", name, verdicts)
		}
		revoked := verdict == "REVOKED"
		if got := krl.Revoked(readKey(t, dir, name)); got != revoked {
			t.Errorf("%s: revoked is %v here and %v for ssh-keygen", name, got, revoked)
		}
	}
}

// verdictOf finds `NAME (COMMENT): VERDICT`.
func verdictOf(verdicts, name string) string {
	for line := range strings.Lines(verdicts) {
		if strings.HasPrefix(line, name+" (") {
			return strings.TrimSpace(line[strings.LastIndexByte(line, ':')+1:])
		}
	}
	return ""
}
