//go:build unix

package agent

import (
	"os"
	"os/exec"

	"github.com/creack/pty"
)

type ptyTerminal struct{ *os.File }

func (t ptyTerminal) resize(cols, rows uint32) error {
	return pty.Setsize(t.File, &pty.Winsize{Cols: uint16(cols), Rows: uint16(rows)})
}

func startOnTerminal(cmd *exec.Cmd) (terminal, error) {
	tty, err := pty.Start(cmd)
	if err != nil {
		return nil, err
	}
	return ptyTerminal{tty}, nil
}
