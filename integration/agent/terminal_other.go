//go:build !unix

package agent

import (
	"errors"
	"os/exec"
)

func startOnTerminal(*exec.Cmd) (terminal, error) {
	return nil, errors.New("no terminals on this system")
}
