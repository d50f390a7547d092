package instance_test

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestStrangersStayOutside(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		p.keys.push("root", p.public)
		p.keys.push("nobody", p.public)
		for _, user := range []string{"root", "nobody", "ubuntu"} { // ubuntu may log in, but nobody has pushed a key
			if got := p.run("", "ssh", "-l", user, "target", "true"); got.code != 255 || !strings.Contains(got.stderr, "Permission denied") {
				t.Errorf("%s: code %d, %q", user, got.code, got.stderr)
			}
		}
		other := newClient(t, p.inst)
		if got := other.run("", "ssh", "target", "true"); got.code != 255 || !strings.Contains(got.stderr, "Permission denied") {
			t.Errorf("another key: code %d, %q", got.code, got.stderr)
		}
		p.keys.push("ubuntu", "garbage\n"+p.public)
		if got := p.ssh("-l", "ubuntu", "target", `echo "$USER"`); got != "ubuntu\n" {
			t.Errorf("ubuntu's shell says %q", got)
		}
	})
}

func TestKeyIsForgotten(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		p.ssh("target", "true")
		p.keys.push("ec2-user", "")
		if got := p.run("", "ssh", "target", "true"); got.code != 255 {
			t.Errorf("a withdrawn key: code %d", got.code)
		}
		p.keys.push("ec2-user", p.public)
		p.keys.mu.Lock()
		p.keys.status = http.StatusInternalServerError // an answer that is not a 200 lists nothing, whatever it says
		p.keys.mu.Unlock()
		if got := p.run("", "ssh", "target", "true"); got.code != 255 {
			t.Errorf("an error as answer: code %d", got.code)
		}
	})
}

// A server that offers no method of its own to gliderlabs lets everybody in; "none" must be refused, and so must a password.
func TestNoLoginWithoutKey(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		for name, methods := range map[string][]ssh.AuthMethod{"none": nil, "password": {ssh.Password("")}} {
			conn, err := ssh.Dial("tcp", p.inst.Addr, &ssh.ClientConfig{
				User: "ec2-user", Auth: methods, HostKeyCallback: ssh.FixedHostKey(p.inst.HostKeys[0]),
				HostKeyAlgorithms: []string{p.inst.HostKeys[0].Type()}, Timeout: testkit.Patience,
			})
			if err == nil {
				_ = conn.Close()
				t.Errorf("%s: admitted", name)
			} else if !strings.Contains(err.Error(), "unable to authenticate") {
				t.Errorf("%s: %v", name, err)
			}
		}
	})
}

func TestHostKeysStay(t *testing.T) {
	dir := t.TempDir()
	var before []ssh.PublicKey
	for range 2 {
		inst, err := instance.Start(instance.Config{ID: instanceID, KeysURL: "http://127.0.0.1:9/keys", OSUsers: []string{"ec2-user"}, Dir: dir, Embedded: true})
		if err != nil {
			t.Fatal(err)
		}
		if err := inst.Close(); err != nil {
			t.Error(err)
		}
		for i, key := range before {
			if !bytes.Equal(key.Marshal(), inst.HostKeys[i].Marshal()) {
				t.Errorf("host key %d has changed", i)
			}
		}
		before = inst.HostKeys
	}
	for _, name := range []string{"ssh_host_ed25519_key", "ssh_host_ecdsa_key"} {
		if info, err := os.Stat(dir + "/" + name); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info, err)
		}
	}
}

func TestConsoleShowsHostKeys(t *testing.T) {
	inst, err := instance.Start(instance.Config{
		ID: instanceID, KeysURL: "http://127.0.0.1:9/keys", OSUsers: []string{"ec2-user"}, Dir: t.TempDir(), Embedded: true,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer inst.Close()
	_, text, _ := strings.Cut(inst.ConsoleText(), "-----BEGIN SSH HOST KEY KEYS-----\r\n")
	text, _, found := strings.Cut(text, "-----END SSH HOST KEY KEYS-----")
	if !found {
		t.Fatal("no END line")
	}
	rest := []byte(text)
	for _, want := range inst.HostKeys {
		key, _, _, next, err := ssh.ParseAuthorizedKey(rest)
		if err != nil || !bytes.Equal(key.Marshal(), want.Marshal()) {
			t.Fatalf("console shows %v, %v", key, err)
		}
		rest = next
	}
}

func TestStartRefusesNonsense(t *testing.T) {
	good := instance.Config{ID: instanceID, KeysURL: "http://127.0.0.1:9/keys", OSUsers: []string{"ec2-user"}, Dir: t.TempDir(), Embedded: true}
	for name, spoil := range map[string]func(*instance.Config){
		"id":       func(c *instance.Config) { c.ID = "i-1; rm" },
		"url":      func(c *instance.Config) { c.KeysURL = "https://example.com" },
		"quote":    func(c *instance.Config) { c.KeysURL = "http://127.0.0.1/'$(id)'" },
		"no users": func(c *instance.Config) { c.OSUsers = nil },
		"user":     func(c *instance.Config) { c.OSUsers = []string{"a:b"} },
		"no dir":   func(c *instance.Config) { c.Dir = "" },
	} {
		cfg := good
		spoil(&cfg)
		if inst, err := instance.Start(cfg); err == nil {
			_ = inst.Close()
			t.Errorf("%s: started", name)
		} else if errors.Unwrap(err) == nil {
			t.Errorf("%s: %v says nothing of the cause", name, err)
		}
	}
}

// What a session runs ends with the machine, on a real one also what has left the session. A pipe tells: it ends when no process holds it any more.
func TestCloseEndsEverything(t *testing.T) {
	eachKind(t, func(t *testing.T, p place) {
		fifo := filepath.Join(testkit.SocketDir(t), "held")
		if out, err := exec.Command("mkfifo", "-m", "666", fifo).CombinedOutput(); err != nil {
			t.Fatalf("mkfifo: %v %s", err, out)
		}
		line := "exec sleep 3600 >" + fifo
		if p.inst.Kind == instance.Real {
			line = "setsid sleep 3600 >" + fifo + " & sleep 3600"
		}
		cmd := p.command("ssh", "target", line)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = cmd.Wait()
		}()
		held := openPipe(t, fifo, ended)
		defer held.Close()
		if err := p.inst.Close(); err != nil {
			t.Error(err)
		}
		_ = held.SetReadDeadline(time.Now().Add(commandLimit))
		if n, err := held.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("the pipe is still held: %v", err)
		}
		testkit.Receive(t, ended, "the end of ssh")
		if cmd.ProcessState.ExitCode() != 255 {
			t.Errorf("the session ended with %v", cmd.ProcessState)
		}
	})
}

// openPipe opens a named pipe to read from once somebody writes to it, and fails the test if ssh, who is to do that, has ended before.
func openPipe(t *testing.T, fifo string, ended <-chan struct{}) *os.File {
	t.Helper()
	opened := make(chan *os.File, 1)
	go func() {
		pipe, err := os.Open(fifo)
		if err != nil {
			t.Error(err)
		}
		opened <- pipe
	}()
	select {
	case pipe := <-opened:
		return pipe
	case <-ended:
		if other, err := os.OpenFile(fifo, os.O_RDWR, 0); err == nil { // for which nobody waits, and which lets go who does
			defer other.Close()
		}
		_ = (<-opened).Close()
		t.Fatal("ssh ended before the pipe was open")
		return nil
	}
}
