package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"runtime"
)

// readTrusted reads a file that decides who may do what: configuration, keys, revocation lists, policies. One that everybody on this machine may write is refused, as
// sshd refuses such authorized_keys (StrictModes in sshd_config(5)); a group's file is left to whoever made it one.
func readTrusted(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, inFileWords(err)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	const byEverybody = 0o002
	if info.Mode().IsRegular() && info.Mode().Perm()&byEverybody != 0 && runtime.GOOS != "windows" { // where permissions are elsewhere
		return nil, errors.New("everybody on this machine may write it, and with it who may log in: chmod o-w")
	}
	text, err := io.ReadAll(file)
	if err != nil {
		return nil, inFileWords(err)
	}
	return text, nil
}

// inFileWords leaves the path out, which stands in the finding already.
func inFileWords(err error) error {
	var at *os.PathError
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errors.New("there is no such file")
	case errors.As(err, &at):
		return fmt.Errorf("cannot be read: %w", at.Err)
	}
	return err
}
