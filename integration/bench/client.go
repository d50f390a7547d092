package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/knownhosts"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// jumpClient does in this process what `ssh -J gateway ec2-user@i-…` does: hundreds of OpenSSH processes at once would measure themselves.
type jumpClient struct {
	gateway       string // host:port
	outer, middle *ssh.ClientConfig
}

const loginLimit = 5 * time.Minute

func (w *world) jumpClient(g *gatewayProcess) (*jumpClient, error) {
	pem, err := os.ReadFile(w.lab.UserKey(person))
	if err != nil {
		return nil, err
	}
	signer, err := ssh.ParsePrivateKey(pem)
	if err != nil {
		return nil, err
	}
	believed, err := knownhosts.New(w.gatewayCA())
	if err != nil {
		return nil, err
	}
	config := func(user string) *ssh.ClientConfig {
		return &ssh.ClientConfig{
			User: user, Auth: []ssh.AuthMethod{ssh.PublicKeys(signer)}, HostKeyCallback: believed,
			HostKeyAlgorithms: []string{ssh.CertAlgoED25519v01}, Timeout: loginLimit,
		}
	}
	return &jumpClient{g.addr, config(person), config(osUser)}, nil
}

// login is a connection to the machine through the gateway.
type login struct {
	*ssh.Client
	outer *ssh.Client
}

// Close ends both connections.
func (l *login) Close() error {
	err := l.Client.Close()
	return errors.Join(ignoreClosed(err), ignoreClosed(l.outer.Close()))
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

func (j *jumpClient) dial(ctx context.Context) (*login, error) {
	outer, err := dialSSH(ctx, func() (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", j.gateway) }, "gateway:22", j.outer)
	if err != nil {
		return nil, fmt.Errorf("gateway: %w", err)
	}
	at := lab.MainInstance + ":22"
	inner, err := dialSSH(ctx, func() (net.Conn, error) { return outer.DialContext(ctx, "tcp", at) }, at, j.middle)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("machine: %w", err), outer.Close())
	}
	return &login{inner, outer}, nil
}

// dialSSH shakes hands on a connection; the end of ctx breaks it off.
func dialSSH(ctx context.Context, dial func() (net.Conn, error), name string, config *ssh.ClientConfig) (*ssh.Client, error) {
	conn, err := dial()
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	client, channels, requests, err := ssh.NewClientConn(conn, name, config)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return ssh.NewClient(client, channels, requests), nil
}

// runTrue logs in, runs true and leaves.
func (j *jumpClient) runTrue(ctx context.Context) error {
	l, err := j.dial(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	err = runTrue(l.Client)
	return errors.Join(err, l.Close())
}

func runTrue(client *ssh.Client) error {
	session, err := client.NewSession()
	if err != nil {
		return err
	}
	defer session.Close()
	return session.Run("true")
}
