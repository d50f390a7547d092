package instance

import (
	"cmp"
	"fmt"
	"net"
	"path/filepath"
	"strings"
)

// machineDir is where the machine's directory appears inside its namespace (mount.sh), whatever lies above it outside.
const machineDir = "/run/machine"

// sshdConfig takes, in this order: host, port, HostKey lines, users, and what else lets in, MaxStartups. It is no text/template: that would be 3 MB in every binary that has the demo.
const sshdConfig = `ListenAddress %s
Port %s
%sPidFile none
LogLevel VERBOSE
UsePAM no
UseDNS no
# Accounts come from the machine's own passwd file; keys only from the command, which knows what was pushed in the last 60 seconds.
AllowUsers %s
PermitRootLogin no
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
%sAuthorizedKeysCommand /run/machine-keys/keys.sh %%u
AuthorizedKeysCommandUser nobody
LoginGraceTime 120
MaxStartups %s
AllowTcpForwarding yes
AllowStreamLocalForwarding yes
StreamLocalBindUnlink yes
AllowAgentForwarding yes
GatewayPorts no
X11Forwarding yes
PermitTTY yes
PermitTunnel no
PrintMotd no
AcceptEnv LANG LC_*
Subsystem sftp internal-sftp
`

func writeSSHDConfig(cfg *Config, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	var hostKeys strings.Builder
	for _, file := range hostKeyFiles {
		fmt.Fprintf(&hostKeys, "HostKey %s/%s\n", machineDir, file.name)
	}
	known, err := writeKnown(cfg)
	if err != nil {
		return err
	}
	text := fmt.Sprintf(sshdConfig, host, port, hostKeys.String(), strings.Join(cfg.OSUsers, " "), known, cmp.Or(cfg.MaxStartups, "1000"))
	return writeFile(filepath.Join(cfg.Dir, "sshd_config"), []byte(text), 0o644)
}

// writeKnown puts the keys that count without being pushed into files and gives the lines of sshd_config that name them.
func writeKnown(cfg *Config) (string, error) {
	lines := "AuthorizedKeysFile none\n"
	if len(cfg.AuthorizedKeys) > 0 {
		lines = "AuthorizedKeysFile " + machineDir + "/authorized_keys\n"
		text := strings.Join(cfg.AuthorizedKeys, "\n") + "\n"
		if err := writeFile(filepath.Join(cfg.Dir, "authorized_keys"), []byte(text), 0o644); err != nil {
			return "", err
		}
	}
	if cfg.TrustedUserCA != "" {
		lines += "TrustedUserCAKeys " + machineDir + "/user_ca.pub\n"
		if err := writeFile(filepath.Join(cfg.Dir, "user_ca.pub"), []byte(cfg.TrustedUserCA+"\n"), 0o644); err != nil {
			return "", err
		}
	}
	return lines, nil
}
