//go:build !unix

package stripe

import "os/exec"

// asNobody does nothing where there is no root.
func asNobody(*exec.Cmd) {}
