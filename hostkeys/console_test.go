package hostkeys

import (
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// The blocks as cloud-init's write-ssh-key-fingerprints prints them: the fingerprints go through logger and carry its prefix, the keys are echoed bare.
const consoleText = `[    0.000000] Linux version 6.1.0 (mockbuild@host)
[   14.210001] cloud-init[1583]: Cloud-init v. 22.2.2 running 'modules:final'
<14>Nov 21 10:00:00 ec2: #############################################################
<14>Nov 21 10:00:00 ec2: -----BEGIN SSH HOST KEY FINGERPRINTS-----
<14>Nov 21 10:00:00 ec2: 256 SHA256:rVh9m9zPL1bYJTqNqIhyyFZOm2Z2YlBTfJ3bVvVYk0g root@ip-10-0-0-1 (ED25519)
<14>Nov 21 10:00:00 ec2: -----END SSH HOST KEY FINGERPRINTS-----
-----BEGIN SSH HOST KEY KEYS-----
ECDSA
ED25519
-----END SSH HOST KEY KEYS-----
[   14.900000] cloud-init[1583]: Cloud-init v. 22.2.2 finished
`

func TestParseConsole(t *testing.T) {
	ed, ec, rsa := newEd25519(t).PublicKey(), newECDSA(t).PublicKey(), newRSA(t, 2048).PublicKey()
	text := strings.NewReplacer("ECDSA\n", keyText(ec)+" root@ip-10-0-0-1\n", "ED25519\n", keyText(ed)+"\n").Replace(consoleText)
	block := func(lines ...string) string {
		return consoleBegin + "\n" + strings.Join(lines, "\n") + "\n" + consoleEnd + "\n"
	}
	for _, c := range []struct {
		name string
		text string
		want []ssh.PublicKey
	}{
		{"as printed", text, []ssh.PublicKey{ec, ed}},
		{"carriage returns", strings.ReplaceAll(text, "\n", "\r\n"), []ssh.PublicKey{ec, ed}},
		{"time stamps on every line", strings.ReplaceAll(text, "\n", "\n[   14.7] ci-info: "), []ssh.PublicKey{ec, ed}},
		{"all types", block(keyText(rsa), keyText(ec), keyText(ed)), []ssh.PublicKey{rsa, ec, ed}},
		{"twice the same", block(keyText(ed), keyText(ed)), []ssh.PublicKey{ed}},
		{"a kernel message between", block(keyText(ed), "[   15.0] random: crng init done", keyText(ec)), []ssh.PublicKey{ed, ec}},
		{"only the first block", text + block(keyText(rsa)), []ssh.PublicKey{ec, ed}},
		{"only the first, though it is empty", block() + block(keyText(rsa)), nil},
		{"no block", "[    0.000000] Linux version 6.1\n", nil},
		{"empty", "", nil},
		{"no end yet", text[:strings.Index(text, consoleEnd)], nil},
		{"the beginning is gone", text[strings.Index(text, consoleBegin)+5:], nil},
		{"a second beginning before the end", consoleBegin + "\n" + keyText(rsa) + "\n" + text, nil},
		{"a key cut short", block(keyText(ed)[:40], keyText(ec)), []ssh.PublicKey{ec}},
		{"a type that is not the key's", block("ssh-rsa " + strings.Fields(keyText(ed))[1]), nil},
		{"DSA and security keys", block("ssh-dss AAAAB3NzaC1kc3M=", "sk-ssh-ed25519@openssh.com AAAA"), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := ParseConsole(c.text)
			if len(got) != len(c.want) {
				t.Fatalf("%d keys, want %d", len(got), len(c.want))
			}
			for i := range got {
				if keyText(got[i]) != keyText(c.want[i]) {
					t.Errorf("key %d is %s, want %s", i, describe(got[i]), describe(c.want[i]))
				}
			}
		})
	}
}

func TestParseConsoleIsBounded(t *testing.T) {
	var many strings.Builder
	many.WriteString(consoleBegin + "\n")
	for range maxConsoleKeys + 1 {
		many.WriteString(keyText(newEd25519(t).PublicKey()) + "\n")
	}
	if got := len(ParseConsole(many.String() + consoleEnd)); got != maxConsoleKeys {
		t.Errorf("%d keys, want %d", got, maxConsoleKeys)
	}
	late := strings.Repeat("x", maxConsole) + "\n" + many.String() + consoleEnd
	if got := len(ParseConsole(late)); got != 0 {
		t.Errorf("%d keys from beyond the limit", got)
	}
}

// Laws: every key is one that a pin can hold and give back, and nothing that is written after a whole block changes what it says.
func FuzzParseConsole(f *testing.F) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHMWwdRX6RGAXgiRrCJkOBwvwLC4Jg0Vv1ajvCkBrMGU"
	f.Add(consoleText, "")
	f.Add(consoleBegin+"\n"+key+" root@host\r\n"+consoleEnd+"\n", consoleBegin+"\n"+key+"\n"+consoleEnd)
	f.Add("[ 1.0] "+consoleBegin+"\n[ 1.1] "+key+"\n", consoleEnd)
	f.Add(consoleBegin+consoleBegin+key+consoleEnd, key)
	f.Fuzz(func(t *testing.T, text, later string) {
		keys := ParseConsole(text)
		if len(keys) > maxConsoleKeys {
			t.Fatalf("%d keys", len(keys))
		}
		if len(keys) == 0 {
			return
		}
		pin := NewPin(somewhere, BelievedConsole, keys...)
		if back := pin.PublicKeys(); len(back) != len(keys) {
			t.Fatalf("a pin gives back %d of %d keys", len(back), len(keys))
		}
		again := ParseConsole(text + later)
		if len(again) != len(keys) {
			t.Fatalf("text after the block makes %d keys of %d", len(again), len(keys))
		}
		for i := range keys {
			if keyText(again[i]) != keyText(keys[i]) {
				t.Fatalf("text after the block changes key %d", i)
			}
		}
	})
}
