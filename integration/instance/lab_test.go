package instance_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestMain(m *testing.M) {
	testkit.StopIgnoringSignals()
	goleak.VerifyTestMain(m)
}

const instanceID = "i-0123456789abcdef0"

// keyService answers which keys were pushed, as the emulator's /_emulator/keys does.
type keyService struct {
	*httptest.Server
	mu     sync.Mutex
	pushed map[string]string // authorized_keys text by user
	asked  []string
	status int
}

func newKeyService(t *testing.T) *keyService {
	t.Helper()
	k := &keyService{pushed: map[string]string{}, status: http.StatusOK}
	k.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.asked = append(k.asked, r.URL.RawQuery)
		w.WriteHeader(k.status)
		if r.URL.Query().Get("instance") == instanceID {
			fmt.Fprint(w, k.pushed[r.URL.Query().Get("user")])
		}
	}))
	t.Cleanup(k.Close)
	return k
}

func (k *keyService) push(user, line string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.pushed[user] = line
}

// client is a person at a terminal: the real ssh, scp and sftp with one key and a known_hosts file.
type client struct {
	t      *testing.T
	dir    string
	config string
	public string
	inst   *instance.Instance
	signer ssh.Signer
}

// dial logs in with the library instead of the program.
func (c *client) dial() *library {
	c.t.Helper()
	conn, err := ssh.Dial("tcp", c.inst.Addr, &ssh.ClientConfig{
		User: "ec2-user", Auth: []ssh.AuthMethod{ssh.PublicKeys(c.signer)}, HostKeyCallback: ssh.FixedHostKey(c.inst.HostKeys[0]),
		HostKeyAlgorithms: []string{c.inst.HostKeys[0].Type()}, Timeout: testkit.Patience,
	})
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { _ = conn.Close() })
	return &library{c.t, conn}
}

type library struct {
	t *testing.T
	*ssh.Client
}

func (d *library) open() *ssh.Session {
	d.t.Helper()
	session, err := d.NewSession()
	if err != nil {
		d.t.Fatal(err)
	}
	return session
}

const commandLimit = time.Minute

// newClient writes an ssh configuration in which the host "target" is the instance.
func newClient(t *testing.T, inst *instance.Instance) *client {
	t.Helper()
	c := &client{t: t, dir: t.TempDir(), inst: inst}
	private, public := newKey(t)
	c.public = public
	var err error
	if c.signer, err = ssh.ParsePrivateKey([]byte(private)); err != nil {
		t.Fatal(err)
	}
	key := c.file("id", private, 0o600)
	host, port, err := net.SplitHostPort(inst.Addr)
	if err != nil {
		t.Fatal(err)
	}
	var known strings.Builder
	for _, hostKey := range inst.HostKeys {
		fmt.Fprintf(&known, "target %s", ssh.MarshalAuthorizedKey(hostKey))
	}
	c.config = c.file("config", fmt.Sprintf(`Host *
  HostName %s
  Port %s
  HostKeyAlias target
  User ec2-user
  IdentityFile %s
  IdentitiesOnly yes
  IdentityAgent none
  BatchMode yes
  StrictHostKeyChecking yes
  UserKnownHostsFile %s
  GlobalKnownHostsFile /dev/null
  UpdateHostKeys no
  ControlPath none
  LogLevel ERROR
  ConnectTimeout 60
`, host, port, key, c.file("known_hosts", known.String(), 0o600)), 0o600)
	return c
}

func newKey(t *testing.T) (private, public string) {
	t.Helper()
	pub, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(priv, "")
	if err != nil {
		t.Fatal(err)
	}
	key, err := ssh.NewPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(block)), string(ssh.MarshalAuthorizedKey(key))
}

func (c *client) file(name, text string, mode os.FileMode) string {
	c.t.Helper()
	path := filepath.Join(c.dir, name)
	if err := os.WriteFile(path, []byte(text), mode); err != nil {
		c.t.Fatal(err)
	}
	return path
}

// command prepares program with the configuration of the client, and a limit.
func (c *client) command(program string, args ...string) *exec.Cmd {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), commandLimit)
	c.t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, program, append([]string{"-F", c.config}, args...)...)
	cmd.WaitDelay = time.Second
	return cmd
}

type result struct {
	stdout, stderr string
	code           int
}

func (c *client) run(stdin, program string, args ...string) result {
	c.t.Helper()
	cmd := c.command(program, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(stdin), &stdout, &stderr
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		c.t.Fatalf("%s: %v", program, err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// ssh runs a command on the instance, and fails the test unless it exits with 0.
func (c *client) ssh(args ...string) string {
	c.t.Helper()
	got := c.run("", "ssh", args...)
	if got.code != 0 {
		c.t.Fatalf("ssh %q: exit code %d, stderr %q", args, got.code, got.stderr)
	}
	return got.stdout
}

// place is an instance of one kind, whose ec2-user takes the key of its client.
type place struct {
	*client
	keys *keyService
	inst *instance.Instance
}

// eachKind runs test against both kinds. Where the real one cannot be started the reason is the subtest's.
func eachKind(t *testing.T, test func(t *testing.T, p place)) {
	t.Helper()
	for _, kind := range []instance.Kind{instance.Embedded, instance.Real} {
		t.Run(string(kind), func(t *testing.T) {
			if err := instance.RealAvailable(); kind == instance.Real && err != nil {
				t.Skip(err)
			}
			test(t, startPlace(t, kind))
		})
	}
}

func startPlace(t *testing.T, kind instance.Kind) place {
	t.Helper()
	keys := newKeyService(t)
	inst, err := instance.Start(instance.Config{
		ID: instanceID, KeysURL: keys.URL + "/_emulator/keys", OSUsers: []string{"ec2-user", "ubuntu"},
		Dir: t.TempDir(), Embedded: kind == instance.Embedded,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := inst.Close(); err != nil {
			t.Error(err)
		}
	})
	if inst.Kind != kind {
		t.Fatalf("kind %s, want %s", inst.Kind, kind)
	}
	c := newClient(t, inst)
	keys.push("ec2-user", c.public)
	return place{client: c, keys: keys, inst: inst}
}
