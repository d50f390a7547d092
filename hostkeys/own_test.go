package hostkeys

import (
	"bytes"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"
)

func TestLoadOrCreateMakesOneKeyAndKeepsIt(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state", "host_key")
	first, created, err := LoadOrCreate(path)
	if err != nil || !created || first.PublicKey().Type() != ssh.KeyAlgoED25519 {
		t.Fatalf("first: created %v, err %v", created, err)
	}
	if runtime.GOOS != "windows" {
		info, err := os.Stat(path)
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, err %v; want 0600", info.Mode(), err)
		}
	}
	again, created, err := LoadOrCreate(path)
	if err != nil || created || !bytes.Equal(again.PublicKey().Marshal(), first.PublicKey().Marshal()) {
		t.Errorf("again: created %v, err %v, or another key", created, err)
	}
	left, err := filepath.Glob(filepath.Join(filepath.Dir(path), ".host-key-*"))
	if err != nil || len(left) != 0 {
		t.Errorf("scratch files left: %v %v", left, err)
	}
	if got := keygen(t, "-y", "-f", path); !strings.HasPrefix(got, keyText(first.PublicKey())) {
		t.Errorf("ssh-keygen reads %q from it", got)
	}
}

func TestLoadOrCreateAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "host_key")
	const n = 8
	var keys [n]string
	var makers [n]bool
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			signer, created, err := LoadOrCreate(path)
			if err != nil {
				t.Error(err)
				return
			}
			keys[i], makers[i] = keyText(signer.PublicKey()), created
		})
	}
	wg.Wait()
	made := 0
	for i := range n {
		if keys[i] != keys[0] {
			t.Errorf("two keys: %s and %s", keys[0], keys[i])
		}
		if makers[i] {
			made++
		}
	}
	if made != 1 {
		t.Errorf("%d callers made the key, want 1", made)
	}
}

func TestLoadTakesWhatSSHKeygenMakes(t *testing.T) {
	for _, c := range []struct {
		name    string
		args    []string
		refused string
	}{
		{name: "ed25519", args: []string{"-t", "ed25519", "-N", ""}},
		{name: "ecdsa", args: []string{"-t", "ecdsa", "-b", "384", "-N", ""}},
		{name: "rsa 3072", args: []string{"-t", "rsa", "-b", "3072", "-N", ""}},
		{name: "rsa as PEM", args: []string{"-t", "rsa", "-b", "3072", "-m", "PEM", "-N", ""}},
		{name: "rsa 2048", args: []string{"-t", "rsa", "-b", "2048", "-N", ""}, refused: "2048 bits"},
		{name: "passphrase", args: []string{"-t", "ed25519", "-N", "secret"}, refused: "ssh-keygen -p"},
	} {
		t.Run(c.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "key")
			keygen(t, append([]string{"-q", "-f", path}, c.args...)...)
			signer, created, err := LoadOrCreate(path)
			if c.refused != "" {
				if err == nil || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("got %v, want a refusal with %q", err, c.refused)
				}
				return
			}
			if err != nil || created {
				t.Fatalf("created %v, err %v", created, err)
			}
			public, err := os.ReadFile(path + ".pub")
			if err != nil || !strings.HasPrefix(string(public), keyText(signer.PublicKey())) {
				t.Errorf("another key than in the .pub file (%v)", err)
			}
		})
	}
}

func TestRSASignsWithSHA2Only(t *testing.T) {
	signer, err := fit(newRSA(t, minRSABits))
	if err != nil {
		t.Fatal(err)
	}
	able, ok := signer.(ssh.MultiAlgorithmSigner)
	if !ok {
		t.Fatal("the signer names no algorithms")
	}
	for _, algorithm := range able.Algorithms() {
		if algorithm == ssh.KeyAlgoRSA {
			t.Error("it signs with SHA-1")
		}
	}
}

func TestLoadRefuses(t *testing.T) {
	good := filepath.Join(t.TempDir(), "good")
	if _, _, err := LoadOrCreate(good); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		make func(path string) error
		want string
		unix bool
	}{
		{"group readable", func(p string) error { return writeMode(p, text, 0o640) }, "chmod 600", true},
		{"world readable", func(p string) error { return writeMode(p, text, 0o604) }, "chmod 600", true},
		{"group writable", func(p string) error { return writeMode(p, text, 0o620) }, "chmod 600", true},
		{"not a key", func(p string) error { return writeMode(p, []byte("hello\n"), 0o600) }, "ssh-keygen -t ed25519", false},
		{"empty", func(p string) error { return writeMode(p, nil, 0o600) }, "ssh-keygen -t ed25519", false},
		{"cut short", func(p string) error { return writeMode(p, text[:len(text)/2], 0o600) }, "ssh-keygen -t ed25519", false},
		{"endless", func(p string) error { return writeMode(p, bytes.Repeat([]byte("x"), maxKeyBytes+1), 0o600) }, "right file", false},
		{"directory", func(p string) error { return os.Mkdir(p, 0o700) }, "not a regular file", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if c.unix && runtime.GOOS == "windows" {
				t.Skip("Windows has no mode bits")
			}
			path := filepath.Join(t.TempDir(), "key")
			if err := c.make(path); err != nil {
				t.Fatal(err)
			}
			_, created, err := LoadOrCreate(path)
			if err == nil || created || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), path) {
				t.Errorf("created %v, err %v; want a sentence with the path and %q", created, err, c.want)
			}
		})
	}
}

func writeMode(path string, text []byte, mode os.FileMode) error {
	if err := os.WriteFile(path, text, 0o600); err != nil {
		return err
	}
	return os.Chmod(path, mode) // the umask does not reach this one
}
