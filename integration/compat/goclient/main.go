// Command goclient is what programs in Go do as SSH clients, with golang.org/x/crypto/ssh and github.com/pkg/sftp: commands, a terminal, files, forwards both
// ways, and the jump that they make themselves. Its environment is that of the scenarios of package compat; it prints what it sees.
package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"
)

func main() {
	if err := visit(); err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
}

// visit uses the machine directly, and again through a jump where there is one to make.
func visit() error {
	address := net.JoinHostPort(os.Getenv("HOST"), os.Getenv("PORT"))
	hostKey, _, _, _, err := ssh.ParseAuthorizedKey([]byte(os.Getenv("HOSTKEY")))
	if err != nil {
		return err
	}
	config, err := login(os.Getenv("LOGIN"), ssh.FixedHostKey(hostKey))
	if err != nil {
		return err
	}
	config.HostKeyAlgorithms = []string{hostKey.Type()}
	direct, err := ssh.Dial("tcp", address, config)
	if err != nil {
		return err
	}
	defer func() { _ = direct.Close() }()
	if err := use(direct); err != nil {
		return fmt.Errorf("direct: %w", err)
	}
	jumped := direct
	if machine := os.Getenv("JUMP"); machine != "" {
		config.User = os.Getenv("PERSON")
		if jumped, err = jump(address, config, machine); err != nil {
			return err
		}
		defer func() { _ = jumped.Close() }()
	}
	if err := use(jumped); err != nil {
		return fmt.Errorf("through a jump: %w", err)
	}
	return nil
}

func login(user string, hostKey ssh.HostKeyCallback) (*ssh.ClientConfig, error) {
	text, err := os.ReadFile(os.Getenv("KEY"))
	if err != nil {
		return nil, err
	}
	key, err := ssh.ParsePrivateKey(text)
	if err != nil {
		return nil, err
	}
	return &ssh.ClientConfig{User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(key)}, HostKeyCallback: hostKey}, nil
}

// jump logs in to a machine over a connection to the gateway. The outer one lasts as long as the program.
func jump(address string, outer *ssh.ClientConfig, machine string) (*ssh.Client, error) {
	gateway, err := ssh.Dial("tcp", address, outer)
	if err != nil {
		return nil, fmt.Errorf("log in to the gateway: %w", err)
	}
	raw, err := gateway.Dial("tcp", net.JoinHostPort(machine, "22"))
	if err != nil {
		return nil, fmt.Errorf("open the jump: %w", err)
	}
	config, err := login(os.Getenv("USER_ON_MACHINE"), ssh.InsecureIgnoreHostKey()) //nolint:gosec // the outer connection has been checked
	if err != nil {
		return nil, err
	}
	conn, chans, reqs, err := ssh.NewClientConn(raw, machine, config)
	if err != nil {
		return nil, fmt.Errorf("log in through the jump: %w", err)
	}
	return ssh.NewClient(conn, chans, reqs), nil
}

// use does everything once.
func use(client *ssh.Client) error {
	for _, do := range []func(*ssh.Client) error{commands, terminal, files, forwards} {
		if err := do(client); err != nil {
			return err
		}
	}
	ok, _, err := client.SendRequest("keepalive@openssh.com", true, nil)
	fmt.Println("keepalive", ok, err)
	return nil
}

func commands(client *ssh.Client) error {
	for _, command := range []string{"echo out; echo err >&2; exit 7", "cat | wc -c", "kill -TERM $$", "exec 2>/dev/null; /nonexistent"} {
		session, err := client.NewSession()
		if err != nil {
			return err
		}
		var stdout, stderr bytes.Buffer
		session.Stdin, session.Stdout, session.Stderr = strings.NewReader(strings.Repeat("x", 300_000)), &stdout, &stderr
		err = session.Run(command)
		fmt.Printf("%s: %q %q %v\n", command, stdout.String(), stderr.String(), err)
		_ = session.Close()
	}
	return nil
}

func terminal(client *ssh.Client) error {
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer func() { _ = session.Close() }()
	if err := session.RequestPty("vt100", 30, 90, ssh.TerminalModes{ssh.ECHO: 0}); err != nil {
		return err
	}
	if err := session.WindowChange(40, 100); err != nil {
		return err
	}
	out, err := session.Output("stty size; stty -a | grep -o -- '-echo '; exit 5")
	var exit *ssh.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("a terminal: %w", err)
	}
	fmt.Printf("terminal %q, exit status %d\n", out, exit.ExitStatus())
	return nil
}

func files(client *ssh.Client) error {
	server, err := sftp.NewClient(client, sftp.UseConcurrentWrites(true), sftp.UseConcurrentReads(true))
	if err != nil {
		return err
	}
	defer func() { _ = server.Close() }()
	path := os.Getenv("REMOTE") + "/file"
	want := bytes.Repeat([]byte("0123456789abcdef\n"), 400_000)
	up, err := server.Create(path)
	if err != nil {
		return err
	}
	n, err := up.ReadFrom(bytes.NewReader(want))
	fmt.Println("sent", n, err, up.Close())
	down, err := server.Open(path)
	if err != nil {
		return err
	}
	var got bytes.Buffer
	n, err = down.WriteTo(&got)
	fmt.Println("fetched", n, err, bytes.Equal(got.Bytes(), want))
	part := make([]byte, 100_000)
	m, err := down.ReadAt(part, int64(len(want)-50_000))
	fmt.Println("the end of it", m, errors.Is(err, io.EOF), bytes.Equal(part[:m], want[len(want)-m:]), down.Close())
	_, err = server.Stat(path + ".none")
	fmt.Println("no such file", errors.Is(err, os.ErrNotExist), server.Rename(path, path+".moved"), server.Remove(path+".moved"))
	return nil
}

// forwards sends bytes to this program's own listener by way of the machine, and to itself from a listener there.
func forwards(client *ssh.Client) error {
	here, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	defer func() { _ = here.Close() }()
	there, err := client.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen on the machine: %w", err)
	}
	defer func() { _ = there.Close() }()
	for _, listener := range []net.Listener{here, there} {
		go func() { // ends with the listener
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}
		}()
		conn, err := client.Dial("tcp", listener.Addr().String())
		if err != nil {
			return fmt.Errorf("a forward to %s: %w", listener.Addr(), err)
		}
		if err := echoes(conn); err != nil {
			return err
		}
	}
	_, err = client.Dial("tcp", "127.0.0.1:1")
	var refused *ssh.OpenChannelError
	fmt.Println("nobody listens", errors.As(err, &refused) && refused.Reason == ssh.ConnectionFailed)
	return nil
}

// echoes sends, ends its input, and wants everything back.
func echoes(conn net.Conn) error {
	defer func() { _ = conn.Close() }()
	want := strings.Repeat("there and back\n", 50_000)
	go func() {
		_, _ = io.WriteString(conn, want)
		_ = conn.(interface{ CloseWrite() error }).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	fmt.Println("echo", string(got) == want, err)
	return nil
}
