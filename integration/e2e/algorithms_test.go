package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// oldAlgorithms are options that leave a client nothing but what has been broken or is close to it, with what it then says and the gateway's log has.
var oldAlgorithms = map[string]struct {
	options   []string
	says, log string
}{
	"group 1, SHA-1":     {[]string{"KexAlgorithms=diffie-hellman-group1-sha1"}, "no matching key exchange method found", "it offers diffie-hellman-group1-sha1"},
	"group 14, SHA-1":    {[]string{"KexAlgorithms=diffie-hellman-group14-sha1"}, "no matching key exchange method found", "it offers diffie-hellman-group14-sha1"},
	"group given, SHA-1": {[]string{"KexAlgorithms=diffie-hellman-group-exchange-sha1"}, "no matching key exchange method found", "it offers diffie-hellman-group-exchange-sha1"},
	"AES in CBC":         {[]string{"Ciphers=aes128-cbc"}, "no matching cipher found", "it offers aes128-cbc"},
	"triple DES":         {[]string{"Ciphers=3des-cbc"}, "no matching cipher found", "it offers 3des-cbc"},
	"HMAC of MD5":        {[]string{"Ciphers=aes128-ctr", "MACs=hmac-md5"}, "no matching MAC found", "it offers hmac-md5"},
	"HMAC, cut short":    {[]string{"Ciphers=aes128-ctr", "MACs=hmac-sha1-96"}, "no matching MAC found", "it offers hmac-sha1-96"},
	"host key, SHA-1":    {[]string{"HostKeyAlgorithms=ssh-rsa"}, "no matching host key type found", "it offers ssh-rsa"},
}

// TestOldAlgorithmsAreRefused: the client says itself what it misses, and the log has its reason in words.
func TestOldAlgorithmsAreRefused(t *testing.T) {
	w := worldOf(t, "embedded")
	for name, old := range oldAlgorithms {
		t.Run(name, func(t *testing.T) {
			got := w.ssh(t, nil, append(optionsOf(old.options), target+"@gateway", "echo inside")...)
			if got.code != 255 || got.stdout != "" || !strings.Contains(got.stderr, old.says) {
				t.Errorf("not refused with %q: %s", old.says, got)
			}
			w.eventually(t, "the log has the reason", func() bool {
				return strings.Contains(w.log.String(), `"reason":"no_common_algorithm"`) && strings.Contains(w.log.String(), old.log)
			})
		})
	}
}

// TestSignaturesWithSHA1AreRefused has a person whose RSA key is enrolled sign with it in each way. The gateway says which signatures it takes
// (RFC 8308), so that a client that may only make the old one does not even try.
func TestSignaturesWithSHA1AreRefused(t *testing.T) {
	w := ownWorld(t)
	key := filepath.Join(t.TempDir(), "rsa")
	if out, err := exec.Command("ssh-keygen", "-q", "-t", "rsa", "-b", "3072", "-N", "", "-f", key).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w.enroll(t, "alice", key)
	for algorithm, inside := range map[string]bool{"ssh-rsa": false, "rsa-sha2-256": true, "rsa-sha2-512": true} {
		got := w.ssh(t, nil, "-o", "BatchMode=yes", "-i", key, "-o", "PubkeyAcceptedAlgorithms="+algorithm, target+"@gateway", "echo inside")
		if inside && (got.code != 0 || got.stdout != "inside\n") {
			t.Errorf("%s: %s", algorithm, got)
		}
		if !inside && (got.code != 255 || got.stdout != "" || !strings.Contains(got.stderr, "Permission denied (publickey)")) {
			t.Errorf("%s is not refused: %s", algorithm, got)
		}
	}
}

// TestUnusualAlgorithmsPass: what a client may be set to for good reasons.
func TestUnusualAlgorithmsPass(t *testing.T) {
	w := worldOf(t, "embedded")
	for _, options := range [][]string{
		{"KexAlgorithms=diffie-hellman-group14-sha256"},
		{"KexAlgorithms=diffie-hellman-group16-sha512"},
		{"KexAlgorithms=diffie-hellman-group-exchange-sha256"},
		{"KexAlgorithms=ecdh-sha2-nistp256"},
		{"KexAlgorithms=ecdh-sha2-nistp384"},
		{"KexAlgorithms=ecdh-sha2-nistp521"},
		{"KexAlgorithms=curve25519-sha256@libssh.org"},
		{"Ciphers=chacha20-poly1305@openssh.com"},
		{"Ciphers=aes128-gcm@openssh.com"},
		{"Ciphers=aes192-ctr"},
		{"Ciphers=aes256-ctr", "MACs=hmac-sha2-256-etm@openssh.com"},
		{"Ciphers=aes256-ctr", "MACs=hmac-sha2-512-etm@openssh.com"},
		{"Ciphers=aes128-ctr", "MACs=hmac-sha2-512"},
	} {
		t.Run(strings.Join(options, " "), func(t *testing.T) {
			if got := w.ssh(t, nil, append(optionsOf(options), target+"@gateway", "echo inside")...); got.code != 0 || got.stdout != "inside\n" {
				t.Error(got)
			}
		})
	}
}

// enroll gives a person one more key, and returns when the gateway knows.
func (w *world) enroll(t *testing.T, person, key string) {
	t.Helper()
	config, err := os.ReadFile(w.lab.GatewayConfig)
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	head, rest, found := strings.Cut(string(config), "name = \""+person+"\"\n")
	if !found {
		t.Fatalf("no %s in %s", person, config)
	}
	rest = strings.Replace(rest, "keys = [", "keys = [\""+strings.TrimSpace(string(line))+"\", ", 1)
	write(t, w.lab.GatewayConfig, []byte(head+"name = \""+person+"\"\n"+rest))
	w.reload(t)
}

// optionsOf are a client's options for one login.
func optionsOf(options []string) []string {
	args := []string{"-o", "BatchMode=yes"}
	for _, option := range options {
		args = append(args, "-o", option)
	}
	return args
}
