package bridge

import (
	"path"
	"strings"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// refuseMosh says at once why mosh cannot work. Let through, mosh-server starts and prints its port, and its client waits for UDP that no port session carries,
// with nothing to tell why.
func refuseMosh(run Program) error {
	if run.Request != "exec" || !startsMosh(run.Command) {
		return nil
	}
	return &authz.Refusal{Reason: authz.ReasonNoUDP, Action: "mosh"}
}

// startsMosh knows what mosh(1) sends: mosh-server 'new' and arguments, behind variables that --server may set, or behind the command and semicolon with which
// --experimental-remote-ip=remote asks for the machine's address. Anything else that has the word in it, a package manager's command say, is not meant.
func startsMosh(command string) bool {
	words := strings.Fields(command)
	for i := range len(words) - 1 {
		if path.Base(words[i]) == "mosh-server" && strings.Trim(words[i+1], `'"`) == "new" {
			return i == 0 || words[i-1] == ";" || words[i-1] == "env" || strings.Contains(words[i-1], "=")
		}
	}
	return false
}
