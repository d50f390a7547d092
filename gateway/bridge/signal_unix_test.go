//go:build unix

package bridge

import "syscall"

// windowChanged tells ssh to look at its terminal's size.
const windowChanged = syscall.SIGWINCH
