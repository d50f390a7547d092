package instance

import (
	"io/fs"
	"os"
)

// makeDir makes a directory that all users of the machine may look into, whatever the umask of this process.
func makeDir(path string) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	return os.Chmod(path, 0o755) //nolint:gosec // as on any machine
}

// writeFile gives a file of the machine this very mode, whatever the umask of this process.
func writeFile(path string, text []byte, mode fs.FileMode) error {
	if err := os.WriteFile(path, text, mode); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}
