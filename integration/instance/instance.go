// Package instance is a machine at the far end: a login service that believes only keys which were pushed a moment ago, unless it is told of others.
//
// A real instance is the system's own sshd, started with its own configuration, host keys and users in namespaces of its own, so that nothing
// on the machine changes and nothing survives it. An embedded instance is an SSH server on gliderlabs/ssh for machines where that is not
// possible: no root, no sshd, another system than Linux. Both accept exactly Config.OSUsers with exactly the keys that Config.KeysURL answers.
package instance

import (
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"
	"sync"

	"golang.org/x/crypto/ssh"
)

// Kind tells which login service an instance runs.
type Kind string

// The two kinds of instance.
const (
	Real     Kind = "sshd"     // the system's OpenSSH server
	Embedded Kind = "embedded" // the server of this package
)

// Config describes one instance. ID, KeysURL, OSUsers and Dir are required.
type Config struct {
	// ID is the instance id; it names the machine in its console text and in requests to KeysURL.
	ID string
	// KeysURL is an http URL that answers 200 and authorized_keys lines for the added query parameters instance and user. It is asked
	// for every key offered, and whatever it does not list is refused, as EC2 Instance Connect's helper does on a real machine.
	KeysURL string
	// OSUsers are the only accounts that may log in. Names are lower case letters, digits, '-' and '_'.
	OSUsers []string
	// TrustedUserCA is the public key whose user certificates let in (TrustedUserCAKeys in sshd_config(5)), as one authorized_keys line. Optional.
	TrustedUserCA string
	// AuthorizedKeys are keys that let in as every OS user, one authorized_keys line each. Optional.
	AuthorizedKeys []string
	// MaxStartups is that of sshd_config(5), of the system's sshd; out of the way of any crowd when empty.
	MaxStartups string
	// Dir keeps host keys, homes and configuration. It is created if missing, reused if not: the host keys of a second start are those of the first.
	Dir string
	// Embedded chooses the embedded server. Otherwise the real one is started, and Start fails with RealAvailable's reason where it cannot be.
	Embedded bool
	// Logger takes what the login service reports, at debug level. Optional.
	Logger *slog.Logger
}

// Instance is a running machine.
type Instance struct {
	// Addr is host:port of the login service, on loopback.
	Addr string
	// HostKeys are the public halves of its host keys.
	HostKeys []ssh.PublicKey
	// Kind says which login service answers.
	Kind Kind

	id       string
	shutdown func() error
	once     sync.Once
	closeErr error
}

// Names and addresses go into sshd's configuration, a passwd file and a shell script: only plain ones pass.
var (
	plainID   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)
	plainUser = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,30}$`)
)

var errNoUsers = errors.New("no OS users given")

// Start brings an instance up and returns when its login service accepts connections, or within 15 seconds with the reason why not.
func Start(cfg Config) (*Instance, error) {
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("instance %q: %w", cfg.ID, err)
	}
	dir, err := filepath.Abs(cfg.Dir)
	if err != nil {
		return nil, fmt.Errorf("instance %s: %w", cfg.ID, err)
	}
	cfg.Dir = dir
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("instance %s: %w", cfg.ID, err)
	}
	keys, err := loadHostKeys(dir)
	if err != nil {
		return nil, fmt.Errorf("instance %s: host keys: %w", cfg.ID, err)
	}
	start, kind := startReal, Real
	if cfg.Embedded {
		start, kind = startEmbedded, Embedded
	}
	addr, shutdown, err := start(cfg, keys)
	if err != nil {
		return nil, fmt.Errorf("instance %s: %w", cfg.ID, err)
	}
	inst := &Instance{Addr: addr, Kind: kind, id: cfg.ID, shutdown: shutdown}
	for _, key := range keys {
		inst.HostKeys = append(inst.HostKeys, key.PublicKey())
	}
	return inst, nil
}

// Close ends the login service and every process it started, and returns when they are gone. It may be called more than once.
func (i *Instance) Close() error {
	i.once.Do(func() { i.closeErr = i.shutdown() })
	return i.closeErr
}

func (c *Config) check() error {
	if !plainID.MatchString(c.ID) {
		return errors.New("not a plain instance id")
	}
	u, err := url.Parse(c.KeysURL)
	if err != nil {
		return fmt.Errorf("keys URL: %w", err)
	}
	if u.Scheme != "http" || u.Hostname() == "" || strings.ContainsAny(c.KeysURL, "'\n\r") {
		return fmt.Errorf("keys URL %q is not an http URL", c.KeysURL)
	}
	if len(c.OSUsers) == 0 {
		return errNoUsers
	}
	for _, user := range c.OSUsers {
		if !plainUser.MatchString(user) {
			return fmt.Errorf("OS user %q is not a plain name", user)
		}
	}
	for _, line := range c.knownLines() {
		if _, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err != nil || strings.ContainsAny(line, "\n\r") {
			return fmt.Errorf("%q is not a public key: %w", line, err)
		}
	}
	if c.Dir == "" {
		return errors.New("no directory given")
	}
	return nil
}

// knownLines are the keys that count without being pushed.
func (c *Config) knownLines() []string {
	if c.TrustedUserCA == "" {
		return c.AuthorizedKeys
	}
	return append(c.AuthorizedKeys[:len(c.AuthorizedKeys):len(c.AuthorizedKeys)], c.TrustedUserCA)
}

// keysURL is what is asked for one account.
func (c *Config) keysURL(user string) string {
	u, err := url.Parse(c.KeysURL)
	if err != nil { // check has parsed it before
		return ""
	}
	query := u.Query()
	query.Set("instance", c.ID)
	query.Set("user", user)
	u.RawQuery = query.Encode()
	return u.String()
}
