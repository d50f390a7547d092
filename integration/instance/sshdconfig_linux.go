package instance

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// machineDir is where the machine's directory appears inside its namespace (mount.sh), whatever lies above it outside.
const machineDir = "/run/machine"

// sshdConfig takes, in this order: host, port, HostKey lines, users. It is no text/template: that would be 3 MB in every binary that has the demo.
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
AuthorizedKeysFile none
AuthorizedKeysCommand /run/machine-keys/keys.sh %%u
AuthorizedKeysCommandUser nobody
LoginGraceTime 120
# Every session arrives from loopback, so that the limits per source would count all users together.
MaxStartups 1000
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
	text := fmt.Sprintf(sshdConfig, host, port, hostKeys.String(), strings.Join(cfg.OSUsers, " "))
	return os.WriteFile(filepath.Join(cfg.Dir, "sshd_config"), []byte(text), 0o644)
}
