package instance

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// accounts are the account files of a machine: the host's, with users added.
type accounts struct{ passwd, shadow, group []byte }

func readAccounts() (*accounts, error) {
	var a accounts
	for path, into := range map[string]*[]byte{"/etc/passwd": &a.passwd, "/etc/shadow": &a.shadow, "/etc/group": &a.group} {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
			text = append(text, '\n')
		}
		*into = text
	}
	if !hasAccount(a.passwd, "sshd") { // the user behind sshd's privilege separation
		a.passwd = append(a.passwd, "sshd:x:59999:65534::/run/sshd:/usr/sbin/nologin\n"...)
	}
	return &a, nil
}

// add gives user an account with the id for itself and its group, a home and a shell. The password field '*' fits no password and, unlike '!',
// does not make sshd take the account for locked. An account of the host with the same name is replaced: the machine is not the host.
func (a *accounts) add(user string, id int) {
	a.passwd = append(without(a.passwd, user), fmt.Sprintf("%s:x:%d:%d:%s:/home/%s:/bin/bash\n", user, id, id, user, user)...)
	a.shadow = append(without(a.shadow, user), fmt.Sprintf("%s:*:19000:0:99999:7:::\n", user)...)
	a.group = append(without(a.group, user), fmt.Sprintf("%s:x:%d:\n", user, id)...)
}

func (a *accounts) write(dir string) error {
	for name, text := range map[string][]byte{"passwd": a.passwd, "shadow": a.shadow, "group": a.group} {
		mode := fs.FileMode(0o644)
		if name == "shadow" {
			mode = 0o600
		}
		if err := writeFile(filepath.Join(dir, name), text, mode); err != nil {
			return err
		}
	}
	return nil
}

func hasAccount(file []byte, name string) bool {
	return len(without(file, name)) != len(file)
}

func without(file []byte, name string) []byte {
	var kept []byte
	for line := range bytes.Lines(file) {
		if !strings.HasPrefix(string(line), name+":") {
			kept = append(kept, line...)
		}
	}
	return kept
}
