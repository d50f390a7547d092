// Package e2e is the proof: the real ssh, scp, sftp and rsync, the real gateway binary, and the system's real sshd (and the embedded one),
// with an emulated AWS and the agent's side of Session Manager between them.
package e2e

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// patience is how long anything may take before a test gives up on it. Nothing here measures time.
const patience = testkit.Patience

// binary is the gateway as users run it, built once with the race detector.
var binary string

// raceLog is where a data race in a process of ours is reported, which raceEnviron tells it; TestMain fails the run if anything is there.
var raceLog, raceEnviron string

func TestMain(m *testing.M) {
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	testkit.StopIgnoringSignals()
	dir, err := os.MkdirTemp("", "e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() { _ = os.RemoveAll(dir) }()
	binary, raceLog = filepath.Join(dir, "ssm-ssh-gateway"), filepath.Join(dir, "race")
	raceEnviron = "GORACE=atexit_sleep_ms=0 log_path=" + raceLog
	build := exec.Command("go", "build", "-race", "-o", binary, "../../cmd/ssm-ssh-gateway")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "building the gateway:", err)
		return 1
	}
	code := m.Run()
	for _, w := range worlds {
		if w.started != nil {
			w.started.stop()
		}
	}
	if races, _ := filepath.Glob(raceLog + "*"); len(races) > 0 {
		for _, name := range races {
			text, _ := os.ReadFile(name)
			fmt.Fprintf(os.Stderr, "data race in the gateway:\n%s\n", text)
		}
		return 1
	}
	return code
}

// world is one lab with a gateway process in front of it, seen by one person.
type world struct {
	lab       *lab.Lab
	person    string
	sshConfig string
	gateway   *exec.Cmd
	log       *logBuffer
}

// worlds are the kinds of instance; each is started by the first test that needs it and shared by all.
var worlds = map[string]*struct {
	once    sync.Once
	started *world
	err     error
}{
	"sshd": {}, "embedded": {}, "sshd, fast agent": {}, "embedded, fast agent": {}, "sshd, kept warm": {}, "embedded, kept warm": {},
	"embedded, slow starts": {}, "sshd, rationed": {}, "sshd, quick keepalives": {}, "embedded, quick keepalives": {},
}

// eachInstance runs a test against the system's sshd and against the embedded one.
func eachInstance(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	for _, kind := range []string{"sshd", "embedded"} {
		t.Run(kind, func(t *testing.T) { test(t, worldOf(t, kind)) })
	}
}

// eachFastInstance is eachInstance without the real agent's pause of 1 ms per KiB and with larger messages towards it, for tests that move much: 64 MiB take
// a minute and a half each way otherwise.
func eachFastInstance(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	for _, kind := range []string{"sshd, fast agent", "embedded, fast agent"} {
		t.Run(kind, func(t *testing.T) { test(t, worldOf(t, kind)) })
	}
}

func worldOf(t *testing.T, kind string) *world {
	t.Helper()
	if strings.HasPrefix(kind, "sshd") {
		if err := instance.RealAvailable(); err != nil {
			t.Skip("the system's sshd cannot be used as an instance: " + err.Error())
		}
	}
	entry := worlds[kind]
	entry.once.Do(func() { entry.started, entry.err = startWorld(kind) })
	if entry.err != nil {
		t.Fatal(entry.err)
	}
	return entry.started
}

func startWorld(kind string) (*world, error) {
	options := lab.Options{
		Embedded: strings.HasPrefix(kind, "embedded"), Logger: slog.New(slog.DiscardHandler),
		MaxStartups: "10:30:100", // sshd's own default
	}
	if strings.HasSuffix(kind, "fast agent") {
		options.Agent.Quirks.Fast, options.MaxPayload = true, 16<<10
	}
	if strings.HasSuffix(kind, "kept warm") || strings.HasSuffix(kind, "rationed") {
		options.KeepWarm = time.Minute
	}
	if !strings.HasSuffix(kind, "rationed") && !strings.HasSuffix(kind, "slow starts") { // where the waiting is what is looked at
		options.ProgressAfter = time.Hour
	}
	if strings.HasSuffix(kind, "rationed") {
		options.Emulator.Faults.Rates = rations
	}
	started, err := lab.Start(context.Background(), options)
	if err != nil {
		return nil, err
	}
	for suffix, lines := range configured {
		if strings.HasSuffix(kind, suffix) {
			if err := configure(started.GatewayConfig, lines); err != nil {
				return nil, errors.Join(err, started.Close())
			}
		}
	}
	w := &world{lab: started, person: "alice", sshConfig: started.SSHConfig, log: &logBuffer{}}
	w.gateway = exec.Command(binary, "serve", "--config", started.GatewayConfig)
	w.gateway.Env = append(os.Environ(), append(started.Environ(), raceEnviron)...)
	w.gateway.Stdout, w.gateway.Stderr = w.log, w.log
	if err := w.gateway.Start(); err != nil {
		return nil, errors.Join(err, started.Close())
	}
	if err := awaitTCP(started.GatewayAddr); err != nil {
		w.stop()
		return nil, fmt.Errorf("the gateway does not answer: %w\n%s", err, w.log)
	}
	return w, nil
}

// configured are lines of a gateway's configuration, for worlds whose kind ends so.
var configured = map[string]string{
	"slow starts":      "[aws]\nstart_sessions_per_second = 0.5\nstart_sessions_burst = 1\n", // one every two seconds
	"rationed":         "[aws]\n" + rationed,
	"brief drain":      "[limits]\ndrain_timeout = \"1s\"\n\n[aws]\n",
	"quick keepalives": "[limits]\nkeepalive = \"3s\"\nkeepalive_count = 3\n\n[aws]\n",
}

// configure puts lines, which begin or end with the table [aws], in its place.
func configure(config, lines string) error {
	text, err := os.ReadFile(config)
	if err != nil {
		return err
	}
	return os.WriteFile(config, []byte(strings.Replace(string(text), "[aws]\n", lines, 1)), 0o600)
}

// stop asks the gateway to end as a service manager would, and waits.
func (w *world) stop() {
	_ = w.gateway.Process.Signal(os.Interrupt)
	ended := make(chan struct{})
	go func() { _ = w.gateway.Wait(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(patience):
		_ = w.gateway.Process.Kill()
		<-ended
	}
	_ = w.lab.Close()
}

// as is the same world seen by another person.
func (w *world) as(person string) *world {
	other := *w
	other.person, other.sshConfig = person, w.lab.SSHConfigFor(person)
	return &other
}

// command is an OpenSSH program with the person's configuration.
func (w *world) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, append([]string{"-F", w.sshConfig}, args...)...)
	if program == "rsync" {
		cmd = exec.Command(program, args...)
	}
	cmd.Env = append(os.Environ(), "SSH_AUTH_SOCK=", "HOME="+w.lab.Dir)
	return cmd
}

// proxyCommand is the option that makes ssh use `connect` with the person's own AWS credentials.
func (w *world) proxyCommand(person string, args ...string) string {
	environ := strings.Join(w.lab.ConnectEnviron(person), " ")
	return fmt.Sprintf("ProxyCommand=env %s %s connect --key %s.pub %s %%r@%%h:%%p", environ, binary, w.lab.UserKey(person), strings.Join(args, " "))
}

// result is what a person sees of a command.
type result struct {
	stdout, stderr string
	code           int
}

func (r result) String() string {
	return fmt.Sprintf("exit status %d, stdout %q, stderr %q", r.code, r.stdout, r.stderr)
}

func (w *world) ssh(t *testing.T, stdin io.Reader, args ...string) result {
	t.Helper()
	return runResult(t, w.command("ssh", args...), stdin)
}

// run is a command that must succeed.
func (w *world) run(t *testing.T, program string, args ...string) {
	t.Helper()
	if got := runResult(t, w.command(program, args...), nil); got.code != 0 {
		t.Fatalf("%s %s: %s", program, strings.Join(args, " "), got)
	}
}

func runResult(t *testing.T, cmd *exec.Cmd, stdin io.Reader) result {
	t.Helper()
	return runFor(t, patience, cmd, stdin)
}

// runFor is runResult of what may take longer.
func runFor(t *testing.T, limit time.Duration, cmd *exec.Cmd, stdin io.Reader) result {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	timer := time.AfterFunc(limit, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	cmd.WaitDelay = time.Second
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) && !errors.Is(err, exec.ErrWaitDelay) {
		t.Fatal(err)
	}
	return result{stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()}
}

// background runs a command for as long as the test lasts.
func background(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	var stderr logBuffer
	cmd.Stderr = &stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		late := time.AfterFunc(patience, func() {
			t.Errorf("%s does not end", cmd.Path)
			_ = cmd.Process.Kill()
		})
		_ = cmd.Wait()
		late.Stop()
		if t.Failed() {
			t.Logf("%s said: %s", strings.Join(cmd.Args, " "), &stderr)
		}
	})
}

// logBuffer collects what a process prints while others read it.
type logBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// exchange checks that a way that cannot carry half-close carries bytes both ways.
func exchange(t *testing.T, name string, dial func() (net.Conn, error)) {
	t.Helper()
	conn, err := retry(dial)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	sent, received := randomBytes(t, 200<<10), make([]byte, 200<<10)
	go func() { _, _ = conn.Write(sent) }()
	if n, err := io.ReadFull(conn, received); err != nil || !bytes.Equal(received, sent) {
		t.Errorf("%s: %d of %d bytes came back (%v)", name, n, len(sent), err)
	}
}

// conversation checks that a forward carries bytes both ways and that half-close travels: the answer to "end of input" still arrives.
func conversation(t *testing.T, name string, dial func() (net.Conn, error)) {
	t.Helper()
	conn, err := retry(dial)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetDeadline(time.Now().Add(patience))
	sent := randomBytes(t, 200<<10)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	received, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(received, append(sent, "bye\n"...)) {
		t.Errorf("%s: %d of %d bytes came back (%v)", name, len(received), len(sent)+4, err)
	}
}

// listenEcho answers with what it is sent and, at the end of input, with a goodbye.
func listenEcho(t *testing.T, network, address string) string {
	t.Helper()
	listener, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	if network == "unix" {
		_ = os.Chmod(address, 0o777)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer func() { _ = conn.Close() }()
				_, _ = io.Copy(conn, conn)
				_, _ = io.WriteString(conn, "bye\n")
			}()
		}
	}()
	return listener.Addr().String()
}

// dialSOCKS asks a SOCKS5 proxy (RFC 1928) for a TCP connection.
func dialSOCKS(proxy, address string) (net.Conn, error) {
	conn, err := net.Dial("tcp", proxy)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(patience))
	host, port, _ := net.SplitHostPort(address)
	number, _ := strconv.Atoi(port)
	request := append([]byte{5, 1, 0, 5, 1, 0, 1}, net.ParseIP(host).To4()...)
	if _, err := conn.Write(append(request, byte(number>>8), byte(number))); err != nil {
		return nil, err
	}
	answer := make([]byte, 12)
	if _, err := io.ReadFull(conn, answer); err != nil || answer[3] != 0 {
		_ = conn.Close()
		return nil, fmt.Errorf("SOCKS answer % x: %w", answer, err)
	}
	return conn, nil
}

func retry(dial func() (net.Conn, error)) (conn net.Conn, err error) {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		if conn, err = dial(); err == nil {
			return conn, nil
		}
	}
	return nil, err
}

func awaitTCP(address string) error {
	conn, err := retry(func() (net.Conn, error) { return net.Dial("tcp", address) })
	if err == nil {
		_ = conn.Close()
	}
	return err
}

func waitFor(t *testing.T, path string) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if _, err := os.Stat(path); err == nil {
			return
		}
	}
	t.Fatalf("%s never came to be", path)
}

// startAgent runs an ssh-agent with one key and gives its socket.
func startAgent(t *testing.T, key string) string {
	t.Helper()
	cmd := exec.Command("ssh-agent", "-D")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	_, socket, _ := strings.Cut(line, "SSH_AUTH_SOCK=")
	socket, _, _ = strings.Cut(socket, ";")
	add := exec.Command("ssh-add", "-q", key)
	add.Env = append(os.Environ(), "SSH_AUTH_SOCK="+socket)
	if out, err := add.CombinedOutput(); err != nil {
		t.Fatalf("ssh-add: %v: %s", err, out)
	}
	return socket
}

func randomBytes(t *testing.T, n int) []byte {
	t.Helper()
	b := make([]byte, n)
	if _, err := rand.Read(b); err != nil {
		t.Fatal(err)
	}
	return b
}

func write(t *testing.T, path string, content []byte) {
	t.Helper()
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// reload has the gateway read its configuration again, and returns when it has.
func (w *world) reload(t *testing.T) {
	t.Helper()
	reloads := func() int { return strings.Count(w.log.String(), `"msg":"reloaded"`) }
	before := reloads()
	if err := w.gateway.Process.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	w.eventually(t, "the gateway has reloaded", func() bool { return reloads() > before })
}

// eventually waits for something that happens by itself.
func (w *world) eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(20 * time.Millisecond) {
		if holds() {
			return
		}
	}
	t.Errorf("never came true: %s", what)
}
