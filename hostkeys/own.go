package hostkeys

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"
)

const (
	minRSABits  = 3072    // for keys of ours; a machine's own may have 2048, see verify.go
	maxKeyBytes = 1 << 16 // an OpenSSH file with RSA 16384 has about 13 KB
)

// LoadOrCreate gives the private key in the file at path, and makes an Ed25519 key there, in OpenSSH's format and readable by its owner only, if
// there is no file. created tells which. Two programs that do this at once end up with the same key.
//
// Accepted are Ed25519, ECDSA, and RSA of at least 3072 bits, without a passphrase. A file that others may read is refused, as sshd does: what they
// may have copied is no secret. Errors are sentences that end in what to do.
func LoadOrCreate(path string) (signer ssh.Signer, created bool, err error) {
	signer, err = load(path)
	if !errors.Is(err, fs.ErrNotExist) {
		return signer, false, err
	}
	made, err := create(path)
	if err != nil {
		return nil, false, fmt.Errorf("create host key %s: %w", path, err)
	}
	signer, err = load(path)
	return signer, made, err
}

func load(path string) (ssh.Signer, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	if err := checkMode(path, info); err != nil {
		return nil, err
	}
	text, err := io.ReadAll(io.LimitReader(f, maxKeyBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read host key: %w", err)
	}
	if len(text) > maxKeyBytes {
		return nil, fmt.Errorf("host key %s is longer than any key: is it the right file?", path)
	}
	return parse(path, text)
}

// checkMode refuses what sshd refuses, and more: no access for the world, whoever owns the file, and none for the group either, unless somebody else
// owns it and the group may only read. That is how Kubernetes hands a secret to a process that is not root.
func checkMode(path string, info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return fmt.Errorf("host key %s is not a regular file: give the path of a private key", path)
	}
	lax := laxBits(info)
	if lax == 0 {
		return nil
	}
	return fmt.Errorf("host key %s can be read by others (mode %04o), so it may not be secret any more: "+
		"make a new one, or run `chmod 600 %s` if you know that nobody has read it", path, info.Mode().Perm(), path)
}

func parse(path string, text []byte) (ssh.Signer, error) {
	signer, err := ssh.ParsePrivateKey(text)
	var locked *ssh.PassphraseMissingError
	switch {
	case errors.As(err, &locked):
		return nil, fmt.Errorf("host key %s has a passphrase, and a server has nobody to ask: remove it with `ssh-keygen -p -N '' -f %s`", path, path)
	case err != nil:
		return nil, fmt.Errorf("host key %s is not a private key in OpenSSH or PEM format (%w): make one with `ssh-keygen -t ed25519 -N '' -f FILE`", path, err)
	}
	signer, err = fit(signer)
	if err != nil {
		return nil, fmt.Errorf("host key %s %w: make a new one with `ssh-keygen -t ed25519 -N '' -f FILE`", path, err)
	}
	return signer, nil
}

// fit refuses kinds of keys that are too weak to stand for a machine, and keeps RSA from signing with SHA-1.
func fit(signer ssh.Signer) (ssh.Signer, error) {
	switch kind := signer.PublicKey().Type(); kind {
	case ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521:
		return signer, nil
	case ssh.KeyAlgoRSA:
		if bits := rsaBits(signer.PublicKey()); bits < minRSABits {
			return nil, fmt.Errorf("is RSA with %d bits, less than %d", bits, minRSABits)
		}
		able, ok := signer.(ssh.AlgorithmSigner)
		if !ok {
			return nil, errors.New("is RSA and can only sign with SHA-1")
		}
		return ssh.NewSignerWithAlgorithms(able, []string{ssh.KeyAlgoRSASHA512, ssh.KeyAlgoRSASHA256})
	default:
		return nil, fmt.Errorf("is of type %s, which is not fit for a server", kind)
	}
}

// create makes a key and puts it at path whole, and only if nobody else has done so in the meantime: a link never replaces a file, a rename would.
func create(path string) (created bool, err error) {
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return false, err
	}
	block, err := ssh.MarshalPrivateKey(private, "ssm-ssh-gateway")
	if err != nil {
		return false, err
	}
	dir := filepath.Dir(path)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, err
	}
	scratch, err := os.CreateTemp(dir, ".host-key-*") // 0600 by its documentation
	if err != nil {
		return false, err
	}
	defer os.Remove(scratch.Name())
	_, err = scratch.Write(pem.EncodeToMemory(block))
	if err = errors.Join(err, scratch.Sync(), scratch.Close()); err != nil {
		return false, err
	}
	err = os.Link(scratch.Name(), path)
	if errors.Is(err, fs.ErrExist) {
		return false, nil
	}
	return err == nil, err
}
