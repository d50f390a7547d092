package main

import (
	"context"
	"errors"
	"net"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/freeport"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/lab"
)

// door is where a program that brings its own SSH client enters: it knows neither ssh_config nor ProxyCommand.
type door struct {
	host, port, login string
	close             func() error
}

// gatewayDoor is the gateway itself, with the machine in the login name.
func gatewayDoor(g *gatewayProcess) func(context.Context) (*door, error) {
	return func(context.Context) (*door, error) {
		host, port, err := net.SplitHostPort(g.addr)
		return &door{host, port, osUser + "+" + lab.MainInstance, func() error { return nil }}, err
	}
}

// pluginDoor is a port that the plugin forwards to the machine's sshd: all connections through it share one session.
func (w *world) pluginDoor(ctx context.Context) (*door, error) {
	addr, err := freeport.Address()
	if err != nil {
		return nil, err
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	if err := w.pusher.letIn(ctx); err != nil {
		return nil, err
	}
	running, stop := context.WithCancel(ctx)
	words := w.sessionCommand("AWS-StartPortForwardingSession", "portNumber=22,localPortNumber="+port)
	cmd := w.command(running, words[0], words[1:]...)
	if err := cmd.Start(); err != nil {
		stop()
		return nil, err
	}
	d := &door{host, port, osUser, func() error {
		stop()
		if err := cmd.Wait(); err != nil && running.Err() == nil {
			return err
		}
		return nil
	}}
	if err := awaitTCP(ctx, addr); err != nil {
		return nil, errors.Join(err, d.close())
	}
	return d, nil
}

// enter opens the way's door.
func enter(ctx context.Context, c *fileCopy) (leave func() error, err error) {
	if c.door, err = c.master.route.door(ctx); err != nil {
		return nil, err
	}
	return c.door.close, nil
}

func rcloneUp(ctx context.Context, c *fileCopy) error { return c.rclone(ctx, c.dir, ":sftp:"+c.there) }

func rcloneDown(ctx context.Context, c *fileCopy) error {
	return c.rclone(ctx, ":sftp:"+c.there, c.back())
}

// rclone copies with its defaults, four files at once, but for the sums that it has the machine's programs make of every file afterwards.
func (c *fileCopy) rclone(ctx context.Context, from, to string) error {
	w := c.master.route.world
	_, err := output(w.command(ctx, "rclone", "copy", from, to, "-q", "--ignore-checksum", "--config", w.dir+"/rclone.conf",
		"--sftp-host", c.door.host, "--sftp-port", c.door.port, "--sftp-user", c.door.login, "--sftp-key-file", w.lab.UserKey(person)))
	return err
}
