package compat

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/crypto/ssh"
)

// writePrograms puts beside the suite what its scripts run as ssh, sshd, plink and so on: the programs themselves, led through the gateway.
func (m *regressMachine) writePrograms(obj *scriptRun) error {
	config := obj.path("through/ssh_config")
	programs := map[string]string{
		"ssh": sshForScripts(obj), "plink": m.plinkForScripts(obj), "puttygen": puttygenForScripts(obj), "ssh-agent": agentForScripts(smallData),
		"sshd": "#!/bin/sh\nexec /usr/sbin/sshd -o AuthorizedKeysCommand=" + keysCommand + " -o AuthorizedKeysCommandUser=" + osUser + " -o UsePAM=no \"$@\"\n",
		// Run by sshd it is the machine's; run by sftp -D, which starts a server without any network, it is the one across the gateway.
		"sftp-server": "#!/bin/sh\n[ -z \"$SSH_CONNECTION\" ] || exec " + sftpServer + " \"$@\"\n" +
			"[ $# -eq 0 ] || exec /usr/bin/ssh -F " + config + " target " + sftpServer + " \"$@\"\n" +
			"exec /usr/bin/ssh -F " + config + " -s target sftp\n",
	}
	for name, script := range programs {
		if err := os.WriteFile(obj.path("through/"+name), []byte(script), 0o755); err != nil {
			return err
		}
	}
	return nil
}

// sshForScripts is ssh. It chooses the kind of connection (regress_machine_test.go), and it lists for ssh -Q only what the gateway has too: the scripts try
// every algorithm that is listed, with their own sshd in mind.
func sshForScripts(obj *scriptRun) string {
	return `#!/bin/bash
for word; do
	case $word in
	*ssh_proxy*) proxy=1 ;;
	*ssh_config*) export MACHINE=` + daemonTarget + ` ;;
	-p*) forwarded=1 ;;
	esac
	[ "$last" = -Q ] && [ -e ` + obj.path("through") + `/"$word" ] && exec grep -Fxf ` + obj.path("through") + `/"$word" <(/usr/bin/ssh "$@")
	last=$word
done
[ -z "$proxy" ] || unset MACHINE
[ -z "$forwarded" ] || [ -n "$proxy" ] || set -- -o ProxyCommand=none "$@" # it goes to a port that a forward has opened
exec /usr/bin/ssh "$@"
`
}

// plinkForScripts is plink with the gateway in place of the command that the scripts have written into its sessions, and the gateway's host key.
func (m *regressMachine) plinkForScripts(obj *scriptRun) string {
	return `#!/bin/sh
[ "$1" = -load ] || exec plink "$@"
session=$2
shift 2
exec plink -load "$session" -hostkey ` + ssh.FingerprintSHA256(m.world.hostKey) + ` \
	-proxycmd "/usr/bin/ssh -F ` + obj.path("through/ssh_config") + ` -W ` + inetdTarget + `:22 gateway" "$@"
`
}

// puttygenForScripts is puttygen, but the key that the scripts make for themselves is the one that the gateway knows.
func puttygenForScripts(obj *scriptRun) string {
	return `#!/bin/sh
[ "$1 $3" = "-t -o" ] || exec puttygen "$@"
exec puttygen ` + obj.path("ssh-ed25519") + ` -o "$4"
`
}

// agentForScripts is ssh-agent as a script of a given size, in bytes.
func agentForScripts(size int) string {
	script := "#!/bin/sh\nexec /usr/bin/ssh-agent \"$@\"\n"
	return script + strings.Repeat("#", size-len(script)-1) + "\n"
}

// acrossForScp changes the one program of the suite that stands in for ssh: it runs the far side of scp across the gateway instead of beside the near one.
func (m *regressMachine) acrossForScp(obj *scriptRun) error {
	path := obj.path("scp-ssh-wrapper.sh")
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	const local = "set -- $arg\n\tshift\n\texec $SCP \"$@\"\n"
	if !strings.Contains(string(text), local) {
		return fmt.Errorf("%s is not as it was", path)
	}
	across := "set -- $arg\n\tshift\n\texec /usr/bin/ssh -F " + obj.path("through/ssh_config") + " target $SCP \"$@\"\n"
	return os.WriteFile(path, []byte(strings.Replace(string(text), local, across, 1)), 0o755)
}
