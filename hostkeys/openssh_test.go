package hostkeys

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// The real OpenSSH client is the judge of what we issue.
func TestOpenSSHBelievesTheCertificate(t *testing.T) {
	client := program(t, "ssh", "openssh-client")
	issuer, err := NewIssuer(newEd25519(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	certified, plain, err := issuer.Signer("i-0123456789abcdef0", "Web-1")
	if err != nil {
		t.Fatal(err)
	}
	addr := serveTrue(t, certified, plain)
	knownHosts := filepath.Join(t.TempDir(), "known_hosts")
	if err := os.WriteFile(knownHosts, []byte(issuer.KnownHostsLine("i-*", "web-*")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name     string
		believed bool
	}{
		{"i-0123456789abcdef0", true},
		{"Web-1", true}, // ssh looks it up as web-1
		{"i-0123456789abcdef1", false},
		{"db-1", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := exec.Command(client, "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes", "-o", "GlobalKnownHostsFile=none",
				"-o", "UserKnownHostsFile="+knownHosts, "-o", "IdentityFile=none", "-o", "IdentityAgent=none",
				"-o", fmt.Sprintf("ProxyCommand=%s 127.0.0.1 %s", program(t, "nc", "netcat-openbsd"), port), "nobody@"+c.name, "true")
			out, err := cmd.CombinedOutput()
			if believed := err == nil; believed != c.believed {
				t.Errorf("believed: %v, want %v\n%s", believed, c.believed, out)
			}
			if !c.believed && !strings.Contains(string(out), "Host key verification failed") && !strings.Contains(string(out), "host key is known") {
				t.Errorf("it failed for another reason:\n%s", out)
			}
		})
	}
}

// serveTrue is an SSH server that lets everybody in and runs true. It ends with the test.
func serveTrue(t *testing.T, keys ...ssh.Signer) string {
	t.Helper()
	config := &ssh.ServerConfig{NoClientAuth: true}
	for _, key := range keys {
		config.AddHostKey(key)
	}
	return testkit.ServeTCP(t, "127.0.0.1", func(conn net.Conn) { runTrue(conn, config) })
}

func runTrue(conn net.Conn, config *ssh.ServerConfig) {
	server, channels, requests, err := ssh.NewServerConn(conn, config)
	if err != nil {
		return // the client did not believe us
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer server.Close()
	all.Go(func() { ssh.DiscardRequests(requests) })
	for offer := range channels {
		channel, requests, err := offer.Accept()
		if err != nil {
			return
		}
		for request := range requests {
			_ = request.Reply(true, nil)
			if request.Type == "exec" {
				_, _ = channel.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{0}))
				_ = channel.Close()
			}
		}
	}
}

// A real sshd with keys of three types shows the one that is pinned, and Ed25519 where nothing is.
func TestSSHDShowsThePinnedType(t *testing.T) {
	sshd := program(t, "sshd", "openssh-server")
	dir := t.TempDir()
	config := "UsePAM no\nPidFile none\nStrictModes no\n"
	for _, kind := range []string{"rsa", "ecdsa", "ed25519"} {
		key := filepath.Join(dir, kind)
		keygen(t, "-q", "-t", kind, "-N", "", "-f", key)
		config += "HostKey " + key + "\n"
	}
	configFile := filepath.Join(dir, "sshd_config")
	if err := os.WriteFile(configFile, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	const place = "111122223333/eu-west-1/i-0abc"
	for _, pinned := range []string{"", "rsa", "ecdsa", "ed25519"} {
		t.Run("pinned "+pinned, func(t *testing.T) {
			v := &Verifier{Store: NewMemoryStore()}
			want, how := ssh.KeyAlgoED25519, BelievedFirstUse
			if pinned != "" {
				text, err := os.ReadFile(filepath.Join(dir, pinned+".pub"))
				if err != nil {
					t.Fatal(err)
				}
				key, _, _, _, err := ssh.ParseAuthorizedKey(text)
				if err != nil {
					t.Fatal(err)
				}
				want, how = key.Type(), BelievedPin
				if err := v.Store.Replace(t.Context(), NewPin(place, BelievedOperator, key)); err != nil {
					t.Fatal(err)
				}
			}
			shown, got, err := shake(t, sshd, configFile, v, place)
			if err != nil || shown != want || got != how {
				t.Errorf("shown %s, believed as %q, err %v; want %s, %q", shown, got, err, want, how)
			}
		})
	}
}

// shake performs a key exchange with an sshd of its own and goes no further.
func shake(t *testing.T, sshd, configFile string, v *Verifier, place string) (shown string, how Belief, err error) {
	t.Helper()
	ours, theirs := socketPair(t)
	cmd := exec.Command(sshd, "-i", "-e", "-f", configFile)
	var log bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, &log // a file, so sshd gets the socket itself
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	enough := errors.New("seen enough")
	_, _, _, err = ssh.NewClientConn(ours, place, &ssh.ClientConfig{
		User: "nobody", HostKeyAlgorithms: v.Algorithms(place),
		HostKeyCallback: func(_ string, _ net.Addr, key ssh.PublicKey) error {
			shown = key.Type()
			var err error
			if how, err = v.Check(t.Context(), place, key, nil); err != nil {
				return err
			}
			return enough
		},
	})
	_ = ours.Close()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if errors.Is(err, enough) {
		return shown, how, nil
	}
	return shown, how, fmt.Errorf("%w; sshd says: %s", err, log.String())
}

// socketPair gives two ends of a loopback connection, the second as a file for another process.
func socketPair(t *testing.T) (net.Conn, *os.File) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	ours, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer accepted.Close()
	theirs, err := accepted.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = theirs.Close() })
	if err := ours.SetDeadline(time.Now().Add(testkit.Patience)); err != nil {
		t.Fatal(err)
	}
	return ours, theirs
}
