package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// route is a way to the machine's sshd, as an ssh_config in which the machine is called "machine".
type route struct {
	name   string
	world  *world
	config string
	// carrier tells which process moves the bytes, given the process of ssh: for the processor time of it. Nil for plain ssh.
	carrier func(ssh int) (pid int, err error)
	// slowDown and slowUp say that one lane moves about 1 MB/s whatever the machine: the files are smaller then.
	slowDown, slowUp bool
	upOnly           bool // the size of what is sent makes no difference down
	lanes            int  // 1 when zero
	door             func(context.Context) (*door, error)
	log              string // of the gateway, where there is one
}

// explain adds to a failure what the gateway has to say about it.
func (r *route) explain(err error) error {
	if err == nil || r.log == "" {
		return err
	}
	text, _ := os.ReadFile(r.log)
	return fmt.Errorf("%w; its log ends: %s", err, lastLines(string(text), 3))
}

// plainRoute is ssh straight to sshd, over the same round trip: the floor.
func (w *world) plainRoute() (*route, error) {
	return w.straight(plainName, w.direct)
}

// plainNarrowRoute is the same behind a narrow line.
func (w *world) plainNarrowRoute() (*route, error) {
	line, err := w.line(w.lab.Main.Addr, narrowTrip, narrowRate)
	if err != nil {
		return nil, err
	}
	return w.straight(plainName+" narrow", line)
}

// storeRoute is without any delay: what is not timed goes this way.
func (w *world) storeRoute() (*route, error) {
	line, err := w.line(w.lab.Main.Addr, 0, 0)
	if err != nil {
		return nil, err
	}
	return w.straight("store", line)
}

func (w *world) straight(name string, via *delayLine) (*route, error) {
	at := via.Addr()
	r := &route{name: name, world: w}
	return r, r.write(w.instanceKeys(), fmt.Sprintf("    HostName %s\n    Port %d\n", at.IP, at.Port))
}

// A narrow line is one of 16 Mbit/s, as from a home, which takes all that is given to it, as routers that look for benchmarks do.
const (
	narrowTrip = 20 * time.Millisecond
	narrowRate = 2 << 20
)

// The routes that need no gateway: the floor, the incumbent, and our own ProxyCommand.
const (
	plainName   = "plain ssh"
	pluginName  = "CLI + plugin"
	connectName = "connect"
)

// pluginRoute is what AWS documents: its command line as ProxyCommand, which starts the plugin. This is the incumbent.
func (w *world) pluginRoute() (*route, error) {
	r := &route{name: pluginName, world: w, slowDown: w.rate > 0, slowUp: true, carrier: func(ssh int) (int, error) { return descendant(ssh, "session-manager-plugin") }}
	r.door = w.pluginDoor
	var command []string
	for _, word := range w.sessionCommand("AWS-StartSSHSession", "portNumber=22") {
		command = append(command, quote(word))
	}
	return r, r.write(w.instanceKeys(), "    ProxyCommand "+strings.Join(command, " ")+"\n")
}

// sessionCommand is the AWS command line that starts a session by the plugin.
func (w *world) sessionCommand(document, parameters string) []string {
	environ := append(w.lab.ConnectEnviron(person), "PATH="+filepath.Dir(w.bench.programs.plugin)+string(os.PathListSeparator)+os.Getenv("PATH"))
	// A profile without a name is no profile to the AWS command line.
	words := []string{"env", "-u", "AWS_PROFILE", "-u", "AWS_SESSION_TOKEN"}
	for _, variable := range environ {
		if !strings.HasSuffix(variable, "=") {
			words = append(words, variable)
		}
	}
	return append(words, w.bench.programs.aws, "ssm", "start-session", "--target", lab.MainInstance, "--document-name", document, "--parameters", parameters)
}

// connectRoute is our own ProxyCommand.
func (w *world) connectRoute() (*route, error) {
	r := &route{name: connectName, world: w, slowDown: w.rate > 0, slowUp: true, carrier: func(ssh int) (int, error) { return descendant(ssh, "ssm-ssh-gateway") }}
	command := []string{"env"}
	for _, variable := range w.lab.ConnectEnviron(person) {
		command = append(command, quote(variable))
	}
	command = append(command, quote(w.bench.programs.gateway), "connect", "--key", quote(w.lab.UserKey(person)+".pub"), osUser+"@"+lab.MainInstance+":22")
	return r, r.write(w.instanceKeys(), "    ProxyCommand "+strings.Join(command, " ")+"\n")
}

// gatewayRoute is ssh -J through a gateway of the given variant.
func (w *world) gatewayRoute(ctx context.Context, v variant) (*route, error) {
	g, err := w.gateway(ctx, v)
	if err != nil {
		return nil, err
	}
	r := &route{name: v.name, world: w, log: g.logPath}
	r.lanes, r.slowDown, r.slowUp, r.upOnly = v.lanes, w.rate > 0, w.rate > 0 && v.maxPayload == 0, v.maxPayload > 0
	r.carrier = func(int) (int, error) { return g.cmd.Process.Pid, nil }
	r.door = gatewayDoor(g)
	addr := g.addr
	if v.narrow {
		line, err := w.line(g.addr, narrowTrip, narrowRate)
		if err != nil {
			return nil, err
		}
		addr = line.Addr().String()
	}
	host, port, _ := strings.Cut(addr, ":")
	known, outer := w.gatewayCA(), person
	if v.passthrough { // then the client sees the machine's own keys, and the outer login names the OS user
		known, outer = known+" "+w.instanceKeys(), osUser
	}
	jump := fmt.Sprintf("Host gateway\n    HostName %s\n    Port %s\n    HostKeyAlias gateway\n    User %s\n", host, port, outer)
	return r, r.write(known, fmt.Sprintf("    HostName %s\n    ProxyJump gateway\n", lab.MainInstance)+jump)
}

func (w *world) instanceKeys() string { return w.lab.InstanceKnownHosts }

func (w *world) gatewayCA() string { return filepath.Join(w.lab.Dir, "known_hosts") }

// write makes the ssh_config: own are the lines of the host "machine", and of further hosts.
func (r *route) write(knownHosts, own string) error {
	r.config = filepath.Join(r.world.dir, strings.ReplaceAll(r.name, " ", "-")+".ssh_config")
	text := fmt.Sprintf(`Host machine
    HostKeyAlias %s
    User %s
%sHost *
    IdentityFile %s
    IdentitiesOnly yes
    BatchMode yes
    StrictHostKeyChecking yes
    UserKnownHostsFile %s
    GlobalKnownHostsFile /dev/null
    ConnectTimeout 60
    LogLevel ERROR
`, lab.MainInstance, osUser, own, r.world.lab.UserKey(person), knownHosts)
	return os.WriteFile(r.config, []byte(text), 0o600)
}

// command is ssh or scp on this route. It does not outlive ctx.
func (r *route) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	return r.world.command(ctx, program, append([]string{"-F", r.config}, args...)...)
}

// command is a program with an environment that says nothing of whoever runs the benchmark.
func (w *world) command(ctx context.Context, program string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Env = append(withoutOurs(os.Environ()), "HOME="+w.dir)
	dieWithParent(cmd)
	killGroup(cmd)
	return cmd
}

// withoutOurs drops an SSH agent, and what the environment says about AWS: the ways in bring their own.
func withoutOurs(environ []string) []string {
	var kept []string
	for _, variable := range environ {
		if !strings.HasPrefix(variable, "SSH_") && !strings.HasPrefix(variable, "AWS_") && !strings.HasPrefix(variable, "HOME=") {
			kept = append(kept, variable)
		}
	}
	return kept
}

// quote protects a word from the shell that runs a ProxyCommand, and from ssh's own % tokens.
func quote(word string) string {
	return "'" + strings.ReplaceAll(strings.ReplaceAll(word, "'", `'\''`), "%", "%%") + "'"
}
