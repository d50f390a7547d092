package hostkeys

import (
	"slices"
	"strings"
	"testing"
)

// FuzzPin reads a record of the pin store, which somebody may have edited: keys in it that are none match nothing, and those that are match themselves.
func FuzzPin(f *testing.F) {
	f.Add([]byte(`{"place":"111122223333/eu-west-1/i-0abc","keys":["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGUJBVfh6hGeBhyF+A7ziU96FA7+660XI7jzWOp31JFP"],"learned":"console","at":"2026-01-02T03:04:05Z"}`))
	f.Add([]byte(`{"keys":["ssh-rsa AAAA","","ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGUJBVfh6hGeBhyF+A7ziU96FA7+660XI7jzWOp31JFP comment\n"]}`))
	f.Add([]byte(`{"keys":[null]}`))
	f.Add([]byte(`[`))
	f.Add([]byte(nil))
	f.Fuzz(func(t *testing.T, record []byte) {
		pin, err := decode("111122223333/eu-west-1/i-0abc", record)
		if err != nil {
			return
		}
		kinds := pin.Types()
		for _, key := range pin.PublicKeys() {
			if line := keyText(key); slices.Contains(pin.Keys, line) && !pin.Has(key) {
				t.Errorf("%s is pinned and does not match", line)
			}
			if len(kinds) == 0 || strings.ContainsAny(keyText(key), "\r\n") {
				t.Errorf("%q among the types %q", keyText(key), kinds)
			}
		}
	})
}
