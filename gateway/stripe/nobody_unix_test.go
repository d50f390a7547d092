//go:build unix

package stripe

import (
	"os"
	"os/exec"
	"syscall"
)

// asNobody takes root's power to open everything from a program.
func asNobody(cmd *exec.Cmd) {
	if os.Geteuid() == 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
}
