package hostkeys

import (
	"encoding/base64"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
)

// The lines between which cloud-init prints a machine's public host keys on its console, one key on a line (cloud-init, cc_keys_to_console).
const (
	consoleBegin = "-----BEGIN SSH HOST KEY KEYS-----"
	consoleEnd   = "-----END SSH HOST KEY KEYS-----"
)

const (
	maxConsole     = 1 << 20 // EC2 keeps the last 64 KB
	maxConsoleKeys = 16
)

// consoleKinds are the types a machine's sshd can show and x/crypto can check.
var consoleKinds = []string{ssh.KeyAlgoED25519, ssh.KeyAlgoECDSA256, ssh.KeyAlgoECDSA384, ssh.KeyAlgoECDSA521, ssh.KeyAlgoRSA}

// ParseConsole gives the host keys that cloud-init printed in a console text: those of the first block, which was printed by the boot and not by
// somebody who wrote to the console later. There are none if that block has no end: it is still being printed, or was cut, and half of the keys would
// make the other half look changed. Lines may carry what consoles put before them (a kernel's time stamp, a log prefix) and carriage returns.
func ParseConsole(text string) []ssh.PublicKey {
	text = text[:min(len(text), maxConsole)]
	_, rest, found := strings.Cut(text, consoleBegin)
	if !found {
		return nil
	}
	block, _, found := strings.Cut(rest, consoleEnd)
	if !found || strings.Contains(block, consoleBegin) {
		return nil
	}
	var keys []ssh.PublicKey
	for line := range strings.Lines(block) {
		key := consoleKey(line)
		if key == nil || slices.ContainsFunc(keys, func(have ssh.PublicKey) bool { return keyText(have) == keyText(key) }) {
			continue
		}
		if keys = append(keys, key); len(keys) == maxConsoleKeys {
			break
		}
	}
	return keys
}

// consoleKey reads "… type base64 comment", and gives nil where there is no such thing.
func consoleKey(line string) ssh.PublicKey {
	fields := strings.Fields(line)
	for i := range len(fields) - 1 {
		if !slices.Contains(consoleKinds, fields[i]) {
			continue
		}
		blob, err := base64.StdEncoding.DecodeString(fields[i+1])
		if err != nil {
			return nil
		}
		key, err := ssh.ParsePublicKey(blob)
		if err != nil || key.Type() != fields[i] {
			return nil
		}
		return key
	}
	return nil
}
