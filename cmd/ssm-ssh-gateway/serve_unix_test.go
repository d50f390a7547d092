//go:build unix

package main

import (
	"context"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/hostkeys"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// hangupWriter sends this process SIGHUP when the first line is written.
type hangupWriter struct {
	*testkit.Transcript
	once sync.Once
}

// Write implements io.Writer.
func (h *hangupWriter) Write(p []byte) (int, error) {
	h.once.Do(func() { _ = syscall.Kill(os.Getpid(), syscall.SIGHUP) })
	return h.Transcript.Write(p)
}

// TestAHangupDuringTheStartIsAReload: the first thing a start logs is the key that it has made, long before it listens.
func TestAHangupDuringTheStartIsAReload(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("AWS_EC2_METADATA_DISABLED", "true")
	t.Setenv("AWS_CONFIG_FILE", filepath.Join(dir, "none"))
	signer, _, err := hostkeys.LoadOrCreate(filepath.Join(dir, "id"))
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(dir, "id.pub")
	if err := os.WriteFile(keys, ssh.MarshalAuthorizedKey(signer.PublicKey()), 0o600); err != nil {
		t.Fatal(err)
	}
	cfg, err := onePerson{keys: keys, listen: "127.0.0.1:0", region: "eu-west-1", stateDir: filepath.Join(dir, "state")}.config()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	log, ended := testkit.NewTranscript(), make(chan error, 1)
	go func() { ended <- serve(ctx, cfg, serveOptions{log: &hangupWriter{Transcript: log}}) }()
	log.Find(t, `"msg":"listening"`)
	log.Find(t, `"msg":"reloaded"`)
	cancel()
	if err := testkit.Receive(t, ended, "the end of serve"); err != nil {
		t.Error(err)
	}
}
