package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/pelletier/go-toml/v2"
	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/freeport"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// variant is a gateway with settings of its own. Everything else is as the lab writes it for tests, at the log level of production.
type variant struct {
	name        string
	maxPayload  int // bytes of one message towards the instance; 1024 when zero
	discover    int // up to which size of message the gateway tries; not at all when zero
	lanes       int // that a connection may have; the gateway's default when zero
	passthrough bool
	narrow      bool     // the client is behind a narrow line
	ciphers     []string // that clients may choose from; all when nil
	keepWarm    string   // how long a session waits for the next connection; the default when empty
	environ     []string
}

// table is a table of a TOML file.
type table = map[string]any

var (
	inspected   = variant{name: "inspected"}
	inspected16 = variant{name: "inspected16k", lanes: 1, maxPayload: 16 << 10}
	discovered  = variant{name: "discovered", lanes: 1, discover: 16 << 10}
	passthrough = variant{name: "passthrough", passthrough: true}
	narrow      = variant{name: "narrow", narrow: true}
	withAES     = variant{name: "lanes1aes", lanes: 1, ciphers: []string{ssh.CipherAES128GCM, ssh.CipherAES256GCM}}
)

// laneVariants are the points of the plot, fewest lanes first; another number is another line.
var laneVariants = []variant{
	{name: "lanes1", lanes: 1},
	{name: "lanes2", lanes: 2},
	{name: "lanes4", lanes: 4},
	{name: "lanes8", lanes: 8},
}

// roomy are limits beyond anything measured here: all clients are one person at one address.
var roomy = table{
	"max_startups": "4000:30:8000", "max_startups_per_source": 4000, "max_connections": 8000, "max_connections_per_person": 4000,
	"max_machines_per_connection": 4000, "max_lanes_per_person": 4000, "max_lanes_per_machine": 4000, "connect_timeout": "5m", "login_grace": "5m",
}

// limits are roomy, with the lanes of the variant.
func (v variant) limits() table {
	limits := maps.Clone(roomy)
	if v.lanes > 0 {
		limits["max_lanes_per_connection"] = v.lanes
	}
	return limits
}

// gatewayProcess is a gateway at work.
type gatewayProcess struct {
	addr    string
	cmd     *exec.Cmd
	logPath string
	logFile *os.File
}

const (
	startLimit = 30 * time.Second
	stopLimit  = 20 * time.Second
	pollEvery  = 10 * time.Millisecond
)

// gateway gives the variant's process, started at the first call.
func (w *world) gateway(ctx context.Context, v variant) (*gatewayProcess, error) {
	if g := w.gateways[v.name]; g != nil {
		return g, nil
	}
	g, err := w.startGateway(ctx, v)
	if err != nil {
		return nil, fmt.Errorf("gateway %s: %w", v.name, err)
	}
	w.gateways[v.name] = g
	return g, nil
}

// freshGateway is gateway with nothing in its memory.
func (w *world) freshGateway(ctx context.Context, v variant) (*gatewayProcess, error) {
	if g := w.gateways[v.name]; g != nil {
		delete(w.gateways, v.name)
		if err := g.stop(); err != nil {
			return nil, err
		}
	}
	return w.gateway(ctx, v)
}

func (w *world) startGateway(ctx context.Context, v variant) (*gatewayProcess, error) {
	dir := filepath.Join(w.dir, "gateway-"+v.name)
	addr, err := freeport.Address()
	if err != nil {
		return nil, err
	}
	config, err := w.writeConfig(dir, addr, v)
	if err != nil {
		return nil, err
	}
	g := &gatewayProcess{addr: addr, logPath: filepath.Join(dir, "log"), cmd: exec.Command(w.bench.programs.gateway, "serve", "--config", config)}
	if g.logFile, err = os.Create(g.logPath); err != nil {
		return nil, err
	}
	g.cmd.Env = append(append(os.Environ(), w.lab.Environ()...), v.environ...)
	g.cmd.Stdout, g.cmd.Stderr = g.logFile, g.logFile
	dieWithParent(g.cmd)
	if err := g.cmd.Start(); err != nil {
		return nil, errors.Join(err, g.logFile.Close())
	}
	if err := awaitTCP(ctx, addr); err != nil {
		text, _ := os.ReadFile(g.logPath)
		return nil, errors.Join(err, g.stop(), fmt.Errorf("it said: %s", text))
	}
	return g, nil
}

// writeConfig turns the lab's configuration into the variant's.
func (w *world) writeConfig(dir, addr string, v variant) (path string, err error) {
	text, err := os.ReadFile(w.lab.GatewayConfig)
	if err != nil {
		return "", err
	}
	config := table{}
	if err := toml.Unmarshal(text, &config); err != nil {
		return "", err
	}
	state := filepath.Join(dir, "state")
	if err := os.MkdirAll(state, 0o700); err != nil {
		return "", err
	}
	const hostCA = "host_ca_ed25519_key" // the one that the clients' known_hosts believes
	key, err := os.ReadFile(filepath.Join(w.lab.Dir, "state", hostCA))
	if err != nil {
		return "", err
	}
	policy := `@id("everybody") permit (principal, action, resource);`
	if v.passthrough {
		policy = `@id("everybody") @mode("passthrough") permit (principal, action, resource);`
	}
	session := table{"max_payload": max(v.maxPayload, 1024), "discover_payload": v.discover}
	if v.keepWarm != "" {
		session["keep_warm"] = v.keepWarm
	}
	if v.ciphers != nil {
		config["ciphers"] = v.ciphers
	}
	if w.messageRate != 0 {
		session["message_rate"] = w.messageRate
	}
	maps.Copy(config, table{
		"listen": []string{addr}, "state_dir": state, "audit_log": filepath.Join(dir, "audit.jsonl"), "log_level": "info", "policies": []string{"policy.cedar"},
		"revoked_keys": []string{}, "limits": v.limits(), "session": session,
		// The emulator does not throttle; what the gateway saves AWS from would only measure itself.
		"aws": table{
			"region": lab.Region, "start_sessions_per_second": 1000.0, "start_sessions_burst": 1000,
			"push_keys_per_second": 1000.0, "push_keys_burst": 1000, "max_queue": "5m",
		},
	})
	if text, err = toml.Marshal(config); err != nil {
		return "", err
	}
	path = filepath.Join(dir, "config.toml")
	return path, errors.Join(os.WriteFile(filepath.Join(state, hostCA), key, 0o600), os.WriteFile(path, text, 0o600),
		os.WriteFile(filepath.Join(dir, "policy.cedar"), []byte(policy), 0o600))
}

// stop asks the gateway to end as a service manager does, and ends it.
func (g *gatewayProcess) stop() error {
	defer g.logFile.Close()
	if err := g.cmd.Process.Signal(os.Interrupt); err != nil {
		return errors.Join(fmt.Errorf("the gateway ended early: %w", err), g.cmd.Wait())
	}
	late := time.AfterFunc(stopLimit, func() { _ = g.cmd.Process.Kill() })
	defer late.Stop()
	if err := g.cmd.Wait(); err != nil {
		text, _ := os.ReadFile(g.logPath)
		return fmt.Errorf("the gateway ended with %w: %s", err, lastLines(string(text), 3))
	}
	return nil
}

func lastLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	lines = lines[max(len(lines)-n, 0):]
	for i, line := range lines {
		lines[i] = line[:min(len(line), longestLine)]
	}
	return strings.Join(lines, "\n")
}

// longestLine is how much of a line of a log is shown.
const longestLine = 400

func awaitTCP(ctx context.Context, addr string) error {
	return await(ctx, "an answer on "+addr, func() bool {
		conn, err := net.Dial("tcp", addr)
		if err == nil {
			_ = conn.Close()
		}
		return err == nil
	})
}

// await asks again and again, for things that other processes do without telling.
func await(ctx context.Context, what string, there func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	again := time.NewTicker(pollEvery)
	defer again.Stop()
	for !there() {
		select {
		case <-again.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, ctx.Err())
		}
	}
	return nil
}
