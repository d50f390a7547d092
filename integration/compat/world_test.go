// Package compat asks whether people notice the gateway: the same commands go straight to an sshd and through the gateway to the same sshd, and what they
// print, leave behind and exit with must agree. Scenarios are files (testdata/scenarios), OpenSSH's own regression tests run unchanged, and clients
// of other makers do what their users do. With COMPAT=1 everything runs and docs/compatibility.md is written from what happened.
package compat

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
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

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

const (
	machine         = lab.OfflineInstance // the system's sshd
	embeddedMachine = lab.SpareInstance   // the SSH server of package instance
	person          = "alice"
	passenger       = "dave"    // for whom the policy has passthrough
	stranger        = "mallory" // who has no gateway, but a key on both machines: the way without
	osUser          = "ec2-user"
	hopUser         = "ubuntu" // takes everybody's own keys: for hops from the machine, never for the way to it
)

// policyText keeps the gateway out of dave's connections, and is open otherwise.
const policyText = `@id("inspected") permit (principal, action, resource) unless { principal == User::"dave" };
@id("passthrough") @mode("passthrough") permit (principal == User::"dave", action, resource);
`

// everything says that what takes long runs too: `make compat`.
var everything = os.Getenv("COMPAT") == "1"

// warm says that the gateway keeps sessions for the next connection, as it does by default: `make compat` runs the scenarios on such a one, too.
var warm = os.Getenv("COMPAT_WARM") == "1"

const warmSuffix = "-warm"

// needsEverything leaves a part to `make compat` and says so.
func needsEverything(t *testing.T, what string) {
	t.Helper()
	if !everything {
		t.Skip(what + " run in `make compat` (COMPAT=1)")
	}
}

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	testkit.StopIgnoringSignals()
	dir, err := os.MkdirTemp("", "compat")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := os.Chmod(dir, 0o755); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	the.dir = dir
	code := m.Run()
	the.stop()
	if races := the.races(); races != "" {
		fmt.Fprintln(os.Stderr, races)
		code = 1
	}
	if everything {
		if err := theTable.finish(os.Stdout, flag.Lookup("test.run").Value.String() == ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// the world is one lab, one sshd and one gateway process; every test shares it.
var the world

type world struct {
	dir    string
	binary string
	lab    *lab.Lab
	target *instance.Instance // what answers behind machine
	other  *instance.Instance // what answers behind embeddedMachine
	keys   *httptest.Server
	log    *os.File

	hostKey ssh.PublicKey // of the gateway

	gateway *exec.Cmd
	once    sync.Once
	err     error
}

// theWorld starts the world for the first test that asks.
func theWorld(t *testing.T) *world {
	t.Helper()
	the.once.Do(func() { the.err = the.start() })
	if the.err != nil {
		t.Fatal(the.err)
	}
	return &the
}

func (w *world) start() error {
	if err := errors.Join(w.build(), w.buildClient()); err != nil {
		return err
	}
	var fast agent.Config
	fast.Quirks.Fast = true // the suite asks what arrives, not how fast
	var err error
	options := lab.Options{Embedded: true, Agent: fast, MaxPayload: 16 << 10, ProgressAfter: time.Hour, Logger: slog.New(slog.DiscardHandler)}
	options.Emulator.Delay = -1 // the plain connection, whose times are compared, has none either: sshfs waits for an answer two thousand times
	if warm {
		options.KeepWarm = time.Minute
	}
	if w.lab, err = lab.Start(context.Background(), options); err != nil {
		return err
	}
	if err := w.startTargets(); err != nil {
		return err
	}
	for id, target := range map[string]*instance.Instance{machine: w.target, embeddedMachine: w.other} {
		if err := w.lab.Attach(context.Background(), id, target.Addr, fast); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(w.lab.Dir, "policy.cedar"), []byte(policyText), 0o600); err != nil {
		return err
	}
	if err := w.writeRoutes(); err != nil {
		return err
	}
	return w.serve()
}

// build gives the binary under test: the one that $COMPAT_BINARY names, a release say, or this tree's with the race detector.
func (w *world) build() error {
	if w.binary = os.Getenv("COMPAT_BINARY"); w.binary != "" {
		return nil
	}
	w.binary = filepath.Join(w.dir, "ssm-ssh-gateway")
	return goBuild("-race", "-o", w.binary, "../../cmd/ssm-ssh-gateway")
}

// buildClient builds the client in Go, which only TestClients runs.
func (w *world) buildClient() error {
	if !everything {
		return nil
	}
	return goBuild("-o", w.goClient(), "./goclient")
}

func (w *world) goClient() string { return filepath.Join(w.dir, "goclient") }

func goBuild(args ...string) error {
	build := exec.Command("go", append([]string{"build"}, args...)...)
	if out, err := build.CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, out)
	}
	return nil
}

// startTargets starts the machines, which take what Instance Connect pushed and, for the way without a gateway, the stranger's key.
func (w *world) startTargets() error {
	var own, all []byte // the last is the stranger's
	for _, name := range []string{person, passenger, stranger} {
		var err error
		if own, err = os.ReadFile(w.lab.UserKey(name) + ".pub"); err != nil {
			return err
		}
		all = append(all, own...)
	}
	w.keys = httptest.NewServer(http.HandlerFunc(func(answer http.ResponseWriter, r *http.Request) {
		for name := range strings.SplitSeq(r.FormValue("instance"), ",") {
			for _, line := range w.lab.AWS.PushedKeys(name, r.FormValue("user")) {
				fmt.Fprintln(answer, line)
			}
		}
		if r.FormValue("user") == hopUser {
			_, _ = answer.Write(all)
			return
		}
		_, _ = answer.Write(own)
	}))
	var err error
	w.target, err = instance.Start(instance.Config{
		ID: machine, KeysURL: w.keys.URL + "/keys", OSUsers: []string{osUser, hopUser}, Dir: filepath.Join(w.dir, "machine"),
		Embedded: instance.RealAvailable() != nil,
	})
	if err != nil {
		return err
	}
	w.other, err = instance.Start(instance.Config{
		ID: embeddedMachine, KeysURL: w.keys.URL + "/keys", OSUsers: []string{osUser, hopUser}, Dir: filepath.Join(w.dir, "embedded"), Embedded: true,
	})
	return err
}

// serve runs the gateway and returns when it answers.
func (w *world) serve() error {
	var err error
	if w.log, err = os.Create(filepath.Join(w.dir, "gateway.log")); err != nil {
		return err
	}
	w.gateway = exec.Command(w.binary, "serve", "--config", w.lab.GatewayConfig)
	w.gateway.Env = append(os.Environ(), append(w.lab.Environ(), "GORACE=log_path="+filepath.Join(w.dir, "race"))...)
	w.gateway.Stdout, w.gateway.Stderr = w.log, w.log
	if err := w.gateway.Start(); err != nil {
		return err
	}
	conn, err := patientDial("tcp", w.lab.GatewayAddr)
	if err != nil {
		return fmt.Errorf("the gateway does not answer: %w", err)
	}
	if err := conn.Close(); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(w.lab.Dir, "state", "ssh_host_ed25519_key"))
	if err != nil {
		return err
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return err
	}
	w.hostKey = key.PublicKey()
	return nil
}

// stop takes the world down as far as it came up.
func (w *world) stop() {
	if w.gateway != nil {
		_ = w.gateway.Process.Signal(os.Interrupt)
		kill := time.AfterFunc(patience, func() { _ = w.gateway.Process.Kill() })
		_ = w.gateway.Wait()
		kill.Stop()
	}
	if w.log != nil {
		_ = w.log.Close()
	}
	if w.lab != nil {
		_ = w.lab.Close()
	}
	for _, target := range []*instance.Instance{w.target, w.other} {
		if target != nil {
			_ = target.Close()
		}
	}
	if w.keys != nil {
		w.keys.Close()
	}
}

// races gives what the race detector in the gateway's process has reported.
func (w *world) races() string {
	var all strings.Builder
	names, _ := filepath.Glob(filepath.Join(w.dir, "race*"))
	for _, name := range names {
		text, _ := os.ReadFile(name)
		all.Write(text)
	}
	return all.String()
}

// patience is how long anything may take before it counts as stuck. Nothing here measures time.
const patience = testkit.Patience

func patientDial(network, address string) (conn net.Conn, err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if conn, err = net.Dial(network, address); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

// outcome is what a person sees of a command.
type outcome struct {
	stdout, stderr string
	code           int
}

func (o outcome) String() string {
	return fmt.Sprintf("exit status %d\nstdout: %s\nstderr: %s", o.code, excerpt(o.stdout), excerpt(o.stderr))
}

func excerpt(s string) string {
	const most = 2000
	if len(s) > most {
		return fmt.Sprintf("%q… (%d bytes)", s[:most], len(s))
	}
	return fmt.Sprintf("%q", s)
}

// run runs a command to its end, or kills it and all its children after limit.
func run(t *testing.T, cmd *exec.Cmd, limit time.Duration) outcome {
	t.Helper()
	var stdout, stderr strings.Builder
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	ownGroup(cmd)
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return outcome{code: -1}
	}
	stuck := time.AfterFunc(limit, func() { killGroup(cmd) })
	defer stuck.Stop()
	cmd.WaitDelay = time.Second
	err := cmd.Wait()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Error(err)
	}
	if !stuck.Stop() {
		fmt.Fprintf(&stderr, "stuck: killed after %v\n", limit)
	}
	return outcome{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// tail gives the end of a file, for messages about failures.
func tail(path string, bytes int64) string {
	file, err := os.Open(path)
	if err != nil {
		return err.Error()
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err == nil && info.Size() > bytes {
		_, _ = file.Seek(-bytes, io.SeekEnd)
	}
	text, _ := io.ReadAll(file)
	return string(text)
}
