//go:build !linux

package instance

import (
	"errors"

	"golang.org/x/crypto/ssh"
)

var errNotLinux = errors.New("a real sshd with users of its own needs Linux")

// RealAvailable tells why a real instance cannot be started here; nil means that it can.
func RealAvailable() error { return errNotLinux }

func startReal(Config, []ssh.Signer) (string, func() error, error) { return "", nil, errNotLinux }
