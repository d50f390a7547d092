package main

import (
	"fmt"
	"os"
	"sync"
)

// appendFile is a log that somebody may move away: reopen goes on in a new file of the old name, as logrotate(8) expects. It is safe for concurrent use.
type appendFile struct {
	path string
	mu   sync.Mutex
	file *os.File
}

// openAppendFile opens path for appending, making it readable by its owner only where it is missing.
func openAppendFile(path string) (*appendFile, error) {
	f := &appendFile{path: path}
	return f, f.reopen()
}

// reopen opens the path again. Where that fails, what is open stays so.
func (f *appendFile) reopen() error {
	fresh, err := os.OpenFile(f.path, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open for appending: %w", err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	before := f.file
	f.file = fresh
	if before == nil {
		return nil
	}
	return before.Close()
}

// Write implements io.Writer.
func (f *appendFile) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Write(p)
}

// Close implements io.Closer.
func (f *appendFile) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Close()
}
