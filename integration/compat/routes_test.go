package compat

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/crypto/ssh"
)

// A route is a way to the machine. Below its name in the world's directory are an ssh_config in which the machine is called "target", and ssh, scp and sftp
// that use it.
type route string

const (
	plain   route = "plain" // straight to sshd: what the others are compared with
	jump    route = "jump"
	direct  route = "direct"
	connect route = "connect"
)

// writeRoutes writes each route's directory.
func (w *world) writeRoutes() error {
	sshdHost, sshdPort, _ := strings.Cut(w.target.Addr, ":")
	gatewayHost, gatewayPort, _ := strings.Cut(w.lab.GatewayAddr, ":")
	ownKeys, err := w.machineKnownHosts()
	if err != nil {
		return err
	}
	options := map[route]string{
		plain: fmt.Sprintf("HostName %s\nPort %s\nUser %s\nHostKeyAlias %s\nUserKnownHostsFile %s", sshdHost, sshdPort, osUser, machine, ownKeys),
		jump:  fmt.Sprintf("HostName %s\nUser %s\nProxyJump gateway", machine, osUser),
		direct: fmt.Sprintf("HostName %s\nPort %s\nUser %s@%s\nHostKeyAlias gateway",
			gatewayHost, gatewayPort, osUser, machine),
		connect: fmt.Sprintf("HostName %s\nUser %s\nUserKnownHostsFile %s\nProxyCommand env %s %s connect --key %s.pub %%r@%%h:%%p",
			machine, osUser, ownKeys, strings.Join(w.lab.ConnectEnviron(person), " "), w.binary, w.lab.UserKey(person)),
	}
	for name, lines := range options {
		if err := w.writeRoute(name, lines); err != nil {
			return err
		}
	}
	return nil
}

// writeRoute writes one. ServerAliveInterval keeps a broken way from hanging until the suite's patience ends.
func (w *world) writeRoute(r route, lines string) error {
	if err := os.MkdirAll(w.routeDir(r), 0o755); err != nil {
		return err
	}
	config := "Host target\n" + lines + "\nBatchMode yes\nLogLevel ERROR\nHost *\nLogLevel ERROR\nInclude " + w.lab.SSHConfig + "\n"
	if err := os.WriteFile(w.sshConfig(r), []byte(config), 0o600); err != nil {
		return err
	}
	for _, program := range []string{"ssh", "scp", "sftp"} {
		script := fmt.Sprintf("#!/bin/sh\nPATH=${PATH#*:} exec %s -F %s \"$@\"\n", program, w.sshConfig(r))
		if err := os.WriteFile(filepath.Join(w.routeDir(r), program), []byte(script), 0o700); err != nil {
			return err
		}
	}
	return nil
}

// machineKnownHosts writes the machine's own host keys, for the ways on which the client sees them.
func (w *world) machineKnownHosts() (string, error) {
	var lines strings.Builder
	for _, key := range w.target.HostKeys {
		fmt.Fprintf(&lines, "%s %s", machine, authorizedLine(key))
	}
	path := filepath.Join(w.dir, "machine_known_hosts")
	return path, os.WriteFile(path, []byte(lines.String()), 0o600)
}

func (w *world) routeDir(r route) string  { return filepath.Join(w.dir, "routes", string(r)) }
func (w *world) sshConfig(r route) string { return filepath.Join(w.routeDir(r), "ssh_config") }

// environ makes ssh, scp and sftp, and what calls them, go this way, and tells other clients where to go.
func (w *world) environ(r route) []string {
	environ := append(os.Environ(), "PATH="+w.routeDir(r)+":"+clientsPath()+":"+os.Getenv("PATH"), "SSH_AUTH_SOCK=", "HOME="+w.lab.Dir, "LC_ALL=C.UTF-8",
		"TERM=vt100", "TOOLS="+toolsDir(), "NODE_PATH="+filepath.Join(toolsDir(), "node_modules"), "KEY="+w.lab.UserKey(person), "PERSON="+person,
		"GIT_CONFIG_NOSYSTEM=1", "GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@lab", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@lab")
	address, login, key, jump := w.lab.GatewayAddr, osUser+"+"+machine, w.hostKey, machine
	if r == plain {
		address, login, key, jump = w.target.Addr, osUser, w.target.HostKeys[0], ""
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

// clientsPath is the Python that has the clients of testdata/clients.
func clientsPath() string { return filepath.Join(toolsDir(), "clients", "bin") }
