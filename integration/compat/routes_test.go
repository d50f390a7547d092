package compat

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
)

// A route is a way to a machine. Below its name in the world's directory are an ssh_config in which the machine is called "target", and ssh, scp and sftp
// that use it.
type route string

const (
	plain       route = "plain" // straight to sshd: what the others are compared with
	jump        route = "jump"
	direct      route = "direct"
	connect     route = "connect"
	passthrough route = "passthrough"
)

// embedded is the same way to the other machine, the embedded one.
func (r route) embedded() route { return r + embeddedSuffix }

const embeddedSuffix = "-embedded"

// control is the way without a gateway to the same machine.
func (r route) control() route {
	if strings.HasSuffix(string(r), embeddedSuffix) {
		return plain.embedded()
	}
	return plain
}

// key is the private key of who goes this way.
func (w *world) key(r route) string {
	switch r {
	case plain, plain.embedded():
		return w.lab.UserKey(stranger)
	case passthrough, passthrough.embedded():
		return w.lab.UserKey(passenger)
	}
	return w.lab.UserKey(person)
}

// end is the machine that a route leads to.
func (w *world) end(r route) (id string, target *instance.Instance) {
	if r.control() == plain {
		return machine, w.target
	}
	return embeddedMachine, w.other
}

// writeRoutes writes each route's directory.
func (w *world) writeRoutes() error {
	ownKeys, err := w.machineKnownHosts()
	if err != nil {
		return err
	}
	for _, r := range []route{plain, jump, direct, connect, passthrough} {
		for _, r := range []route{r, r.embedded()} {
			if err := w.writeRoute(r, w.options(r, ownKeys)); err != nil {
				return err
			}
		}
	}
	return nil
}

// options are the lines of ssh_config that make a route. ownKeys has the machines' own host keys, for the ways on which the client sees them.
func (w *world) options(r route, ownKeys string) string {
	id, target := w.end(r)
	sshdHost, sshdPort, _ := strings.Cut(target.Addr, ":")
	gatewayHost, gatewayPort, _ := strings.Cut(w.lab.GatewayAddr, ":")
	switch r {
	case plain, plain.embedded():
		return fmt.Sprintf("HostName %s\nPort %s\nUser %s\nHostKeyAlias %s\nUserKnownHostsFile %s", sshdHost, sshdPort, osUser, id, ownKeys)
	case direct, direct.embedded():
		return fmt.Sprintf("HostName %s\nPort %s\nUser %s@%s\nHostKeyAlias gateway", gatewayHost, gatewayPort, osUser, id)
	case connect, connect.embedded():
		return fmt.Sprintf("HostName %s\nUser %s\nUserKnownHostsFile %s\nProxyCommand env %s %s connect --key %s.pub %%r@%%h:%%p",
			id, osUser, ownKeys, strings.Join(w.lab.ConnectEnviron(person), " "), w.binary, w.key(r))
	case passthrough, passthrough.embedded(): // SSH is end to end: the client sees the machine's own host key
		known := ownKeys + " " + filepath.Join(w.lab.Dir, "known_hosts")
		return fmt.Sprintf("HostName %s\nUser %s\nUserKnownHostsFile %s\nProxyJump %s@gateway", id, osUser, known, osUser)
	}
	return fmt.Sprintf("HostName %s\nUser %s\nProxyJump gateway", id, osUser)
}

// writeRoute writes one. ServerAliveInterval keeps a broken way from hanging until the suite's patience ends.
func (w *world) writeRoute(r route, lines string) error {
	if err := os.MkdirAll(w.routeDir(r), 0o755); err != nil {
		return err
	}
	config := "Host target\n" + lines + "\nBatchMode yes\nLogLevel ERROR\nHost *\nLogLevel ERROR\nInclude " + w.lab.SSHConfigFor(filepath.Base(w.key(r))) + "\n"
	if err := os.WriteFile(w.sshConfig(r), []byte(config), 0o600); err != nil {
		return err
	}
	for _, program := range []string{"ssh", "scp", "sftp"} {
		script := fmt.Sprintf("#!/bin/sh\necho >>\"${LOGINS:-/dev/null}\"\nPATH=${PATH#*:} exec %s -F %s \"$@\"\n", program, w.sshConfig(r))
		if err := os.WriteFile(filepath.Join(w.routeDir(r), program), []byte(script), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// machineKnownHosts writes the machines' own host keys, for the ways on which the client sees them.
func (w *world) machineKnownHosts() (string, error) {
	var lines strings.Builder
	for _, r := range []route{plain, plain.embedded()} {
		id, target := w.end(r)
		for _, key := range target.HostKeys {
			fmt.Fprintf(&lines, "%s %s", id, authorizedLine(key))
		}
	}
	path := filepath.Join(w.dir, "machine_known_hosts")
	return path, os.WriteFile(path, []byte(lines.String()), 0o600)
}

func (w *world) routeDir(r route) string  { return filepath.Join(w.dir, "routes", string(r)) }
func (w *world) sshConfig(r route) string { return filepath.Join(w.routeDir(r), "ssh_config") }

// environ makes ssh, scp and sftp, and what calls them, go this way, and tells other clients where to go.
func (w *world) environ(r route) []string {
	environ := append(os.Environ(), "PATH="+w.routeDir(r)+":"+clientsPath()+":"+os.Getenv("PATH"), "SSH_AUTH_SOCK=", "HOME="+w.lab.Dir, "LC_ALL=C.UTF-8",
		"TERM=vt100", "TOOLS="+toolsDir(), "NODE_PATH="+filepath.Join(toolsDir(), "node_modules"), "ARTIFACTS="+artifactsDir(r), "KEY="+w.key(r), "PERSON="+person,
		"GOCLIENT="+w.goClient(),
		"GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@lab", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@lab")
	id, target := w.end(r)
	address, login, key, jump := w.lab.GatewayAddr, osUser+"+"+id, w.hostKey, id
	if r == r.control() {
		address, login, key, jump = target.Addr, osUser, target.HostKeys[0], ""
	}
	host, port, _ := strings.Cut(address, ":")
	return append(environ, "HOST="+host, "PORT="+port, "LOGIN="+login, "JUMP="+jump, "USER_ON_MACHINE="+osUser,
		"FINGERPRINT="+ssh.FingerprintSHA256(key), "HOSTKEY="+strings.TrimSpace(authorizedLine(key)))
}

// toolsDir is where scripts/prepare-test puts what is not a package of the system.
func toolsDir() string {
	dir, err := filepath.Abs("../../.tools")
	if err != nil {
		return ""
	}
	return dir
}

// artifactsDir is for what a scenario wants to have looked at afterwards, a picture say: below $COMPAT_ARTIFACTS, or otherwise here, where git ignores it.
// It need not exist.
func artifactsDir(r route) string {
	dir, err := filepath.Abs(cmp.Or(os.Getenv("COMPAT_ARTIFACTS"), "artifacts"))
	if err != nil {
		return ""
	}
	return filepath.Join(dir, string(r))
}

// clientsPath is the Python that has the clients of testdata/clients.
func clientsPath() string { return filepath.Join(toolsDir(), "clients", "bin") }
