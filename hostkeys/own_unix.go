//go:build unix

package hostkeys

import (
	"io/fs"
	"os"
	"syscall"
)

// laxBits gives the permission bits of a private key that should not be.
func laxBits(info fs.FileInfo) fs.FileMode {
	forbidden := fs.FileMode(0o077)
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && int(owner.Uid) != os.Geteuid() {
		forbidden = 0o037
	}
	return info.Mode().Perm() & forbidden
}
