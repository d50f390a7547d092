//go:build unix

package gateway

import "syscall"

// windowChanged tells ssh to look at its terminal's size.
const windowChanged = syscall.SIGWINCH
