//go:build !unix

package bridge

import "syscall"

// windowChanged does nothing where terminals have no such signal: ssh looks at its terminal's size by itself there.
const windowChanged = syscall.Signal(0)
