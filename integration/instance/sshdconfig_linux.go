package instance

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"text/template"
)

// machineDir is where the machine's directory appears inside its namespace (mount.sh), whatever lies above it outside.
const machineDir = "/run/machine"

var sshdConfig = template.Must(template.New("sshd_config").Parse(`ListenAddress {{.Host}}
Port {{.Port}}
{{range .HostKeys}}HostKey {{$.Dir}}/{{.}}
{{end}}PidFile none
LogLevel VERBOSE
UsePAM no
UseDNS no
# Accounts come from the machine's own passwd file; keys only from the command, which knows what was pushed in the last 60 seconds.
AllowUsers {{.Users}}
PermitRootLogin no
AuthenticationMethods publickey
PubkeyAuthentication yes
PasswordAuthentication no
KbdInteractiveAuthentication no
AuthorizedKeysFile none
AuthorizedKeysCommand /run/machine-keys/keys.sh %u
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
`))

func writeSSHDConfig(cfg *Config, addr string) error {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	var text strings.Builder
	values := struct {
		Host, Port, Dir, Users string
		HostKeys               []string
	}{Host: host, Port: port, Dir: machineDir, Users: strings.Join(cfg.OSUsers, " ")}
	for _, file := range hostKeyFiles {
		values.HostKeys = append(values.HostKeys, file.name)
	}
	if err := sshdConfig.Execute(&text, values); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(cfg.Dir, "sshd_config"), []byte(text.String()), 0o644)
}
