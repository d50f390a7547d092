package main

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/gateway"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/hostkeys"
)

// Files of the state directory.
const (
	hostKeyFile = "ssh_host_ed25519_key"
	hostCAFile  = "host_ca_ed25519_key"
	pinsFile    = "pins.db"
)

// keyRing is the host keys in both directions, those the gateway shows and those it believes, and the authority by which it logs in.
type keyRing struct {
	own      []ssh.Signer
	issuer   *hostkeys.Issuer
	verifier *hostkeys.Verifier
	userCA   *gateway.UserCA // nil: none is configured
}

// openKeyRing loads the gateway's keys, making those that are missing, and opens the pins.
func openKeyRing(cfg *loadedConfig, log *slog.Logger) (*keyRing, error) {
	if err := os.MkdirAll(cfg.resolve(cfg.StateDir), 0o700); err != nil {
		return nil, fmt.Errorf("state_dir: %w", err)
	}
	ring := &keyRing{}
	for _, path := range cfg.hostKeyPaths() {
		signer, err := loadOrCreate(path, log)
		if err != nil {
			return nil, err
		}
		ring.own = append(ring.own, signer)
	}
	authority, err := loadOrCreate(cfg.hostCAPath(), log)
	if err != nil {
		return nil, err
	}
	if ring.issuer, err = hostkeys.NewIssuer(authority, ring.own[0]); err != nil {
		return nil, err
	}
	if ring.userCA, err = openUserCA(cfg, log); err != nil {
		return nil, err
	}
	ring.verifier, err = newVerifier(cfg, log)
	return ring, err
}

// openUserCA loads the user CA, making its key if that is missing; nil where none is configured.
func openUserCA(cfg *loadedConfig, log *slog.Logger) (*gateway.UserCA, error) {
	if cfg.UserCAKey == "" {
		return nil, nil //nolint:nilnil // none is an answer
	}
	signer, err := loadOrCreate(cfg.resolve(cfg.UserCAKey), log)
	if err != nil {
		return nil, fmt.Errorf("user_ca_key: %w", err)
	}
	return gateway.NewUserCA(signer)
}

// newVerifier says which host keys of instances are believed.
func newVerifier(cfg *loadedConfig, log *slog.Logger) (*hostkeys.Verifier, error) {
	mode, err := hostKeyMode(cfg.Targets.HostKeys)
	if err != nil {
		return nil, err
	}
	verifier := &hostkeys.Verifier{Store: hostkeys.NewFileStore(cfg.stateFile(pinsFile)), Policy: mode, Log: log}
	for i, line := range cfg.Targets.TrustedHostCA {
		key, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line))
		if err != nil {
			return nil, fmt.Errorf("targets.trusted_host_ca[%d] is no public key: %w", i, err)
		}
		verifier.HostCAs = append(verifier.HostCAs, key)
	}
	return verifier, nil
}

func hostKeyMode(text string) (hostkeys.Mode, error) {
	if text == "" {
		return hostkeys.FirstUse, nil
	}
	return hostkeys.ParseMode(text)
}

func loadOrCreate(path string, log *slog.Logger) (ssh.Signer, error) {
	signer, created, err := hostkeys.LoadOrCreate(path)
	if created {
		log.Info("made a new key", "file", path, "fingerprint", ssh.FingerprintSHA256(signer.PublicKey()))
	}
	return signer, err
}

func (c *loadedConfig) hostKeyPaths() []string {
	if len(c.HostKeys) == 0 {
		return []string{c.stateFile(hostKeyFile)}
	}
	paths := make([]string, 0, len(c.HostKeys))
	for _, name := range c.HostKeys {
		paths = append(paths, c.resolve(name))
	}
	return paths
}

func (c *loadedConfig) hostCAPath() string {
	if c.HostCAKey == "" {
		return c.stateFile(hostCAFile)
	}
	return c.resolve(c.HostCAKey)
}

// checkKeyFiles finds keys that are there but unfit. Missing ones are made at start and are no fault.
func checkKeyFiles(cfg *loadedConfig) []finding {
	var findings []finding
	check := func(keyPath, path string) {
		if _, err := os.Stat(path); err != nil {
			return
		}
		if _, _, err := hostkeys.LoadOrCreate(path); err != nil {
			findings = append(findings, cfg.at(keyPath, "%s", err))
		}
	}
	for i, path := range cfg.hostKeyPaths() {
		check(fmt.Sprintf("host_keys[%d]", i), path)
	}
	check("host_ca_key", cfg.hostCAPath())
	if cfg.UserCAKey != "" {
		check("user_ca_key", cfg.resolve(cfg.UserCAKey))
		findings = append(findings, checkUserCA(cfg)...)
	}
	return findings
}

// checkUserCA keeps the key that opens machines from being one that stands for something else as well.
func checkUserCA(cfg *loadedConfig) []finding {
	path := cfg.resolve(cfg.UserCAKey)
	for _, other := range append(cfg.hostKeyPaths(), cfg.hostCAPath()) {
		if filepath.Clean(path) == filepath.Clean(other) {
			return []finding{cfg.at("user_ca_key", "%s is a host key or the host CA, too: give the user CA a key of its own", path)}
		}
	}
	return nil
}
