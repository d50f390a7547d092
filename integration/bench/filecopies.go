package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// manyFiles is a way to copy a directory of small files.
type manyFiles struct {
	title   string
	at      string // names its directories
	needs   string // the program, if it is not one that everybody has who uses ssh
	down    bool
	streams bool                                                         // does not wait for the machine file by file
	ready   func(ctx context.Context, c *fileCopy) (func() error, error) // what happens before the clock starts, and what undoes it
	copy    func(ctx context.Context, c *fileCopy) error
}

// thereBy is the directory on the machine: all routes lead to one sshd.
func (m manyFiles) thereBy(r *route, dir string) string {
	if m.down {
		return filepath.Base(dir)
	}
	return "by-" + m.at + "-" + strings.ReplaceAll(r.name, " ", "-")
}

// campaign is a number of ways to copy the same directory.
type campaign struct {
	count func(plan) map[string]int // files, by condition
	waits bool                      // the ways wait for round trips and do little else, as long as these take a while
	ways  []manyFiles
}

// campaigns in the order of the table.
var campaigns = []campaign{
	{count: func(p plan) map[string]int { return p.files }, ways: []manyFiles{
		{title: "up, rsync", at: "rsync", streams: true, copy: rsyncUp},
	}},
	{count: func(p plan) map[string]int { return p.copied }, waits: true, ways: []manyFiles{
		{title: "up, sftp put -r", at: "sftp", copy: sftpUp},
		{title: "up, scp -r", at: "scp", copy: scpUp},
		{title: "down, scp -r", at: "scp-down", down: true, copy: scpDown},
	}},
	{count: func(p plan) map[string]int { return p.others }, waits: true, ways: []manyFiles{
		{title: "up, lftp mirror -R", at: "lftp", needs: "lftp", copy: lftpUp},
		{title: "down, lftp mirror", at: "lftp-down", needs: "lftp", down: true, copy: lftpDown},
		{title: "up, rclone copy", at: "rclone", needs: "rclone", ready: enter, copy: rcloneUp},
		{title: "down, rclone copy", at: "rclone-down", needs: "rclone", down: true, ready: enter, copy: rcloneDown},
		{title: "up, sshfs, 8 cp at once", at: "sshfs", needs: "sshfs", ready: mount, copy: copyAtOnce},
		{title: "down, sshfs, 8 cp at once", at: "sshfs-down", needs: "sshfs", down: true, ready: mount, copy: copyAtOnce},
	}},
}

// possible are the ways whose programs are installed, and can do what they are for.
func (c campaign) possible() []manyFiles {
	return slices.DeleteFunc(slices.Clone(c.ways), func(way manyFiles) bool {
		if way.needs == "" {
			return false
		}
		_, err := exec.LookPath(way.needs)
		return err != nil || way.needs == "sshfs" && !mayMount()
	})
}

// mayMount reports whether this machine lets us use FUSE: many containers do not.
func mayMount() bool {
	device, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	return device.Close() == nil
}

func (c *fileCopy) shell() string {
	return fmt.Sprintf("ssh -F %s -S %s", c.master.route.config, c.master.socket)
}

// rsyncUp needs no directory on the machine; it makes one.
func rsyncUp(ctx context.Context, c *fileCopy) error {
	_, err := output(c.master.route.world.command(ctx, "rsync", "-r", "-e", c.shell(), c.dir+"/", "machine:"+c.there+"/"))
	return err
}

func sftpUp(ctx context.Context, c *fileCopy) error {
	cmd := c.master.route.command(ctx, "sftp", "-q", "-b", "-", "-o", "ControlPath="+c.master.socket, "machine")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("put -r %s %s\n", c.dir, c.there))
	_, err := output(cmd)
	return err
}

func scpUp(ctx context.Context, c *fileCopy) error {
	_, err := output(c.master.scp(ctx, "-r", c.dir, "machine:"+c.there))
	return err
}

func scpDown(ctx context.Context, c *fileCopy) error {
	_, err := output(c.master.scp(ctx, "-r", "machine:"+c.there, c.back()))
	return err
}

func lftpUp(ctx context.Context, c *fileCopy) error {
	return c.lftp(ctx, fmt.Sprintf("mirror -R %s %s", c.dir, c.there))
}

func lftpDown(ctx context.Context, c *fileCopy) error {
	return c.lftp(ctx, fmt.Sprintf("mirror %s %s", c.there, c.back()))
}

func (c *fileCopy) lftp(ctx context.Context, command string) error {
	script := fmt.Sprintf("set cmd:fail-exit yes; set net:max-retries 1; set sftp:connect-program \"%s\"; open sftp://machine; %s", c.shell(), command)
	_, err := output(c.master.route.world.command(ctx, "lftp", "-c", script))
	return err
}

// mount makes the machine's home directory one of ours.
func mount(ctx context.Context, c *fileCopy) (unmount func() error, err error) {
	if c.mount, err = os.MkdirTemp(c.master.route.world.dir, "mount"); err != nil {
		return nil, err
	}
	if !c.way.down {
		if _, err := output(c.master.ssh(ctx, "mkdir "+c.there)); err != nil {
			return nil, err
		}
	} else if err := os.Mkdir(c.back(), 0o700); err != nil {
		return nil, err
	}
	if _, err := output(c.master.route.world.command(ctx, "sshfs", "machine:", c.mount, "-o", "ssh_command="+c.shell())); err != nil {
		return nil, err
	}
	return func() error {
		_, err := output(exec.Command("fusermount", "-u", c.mount))
		return err
	}, nil
}

// copyAtOnce lets eight programs copy an eighth each. They have written everything when they end: a mount's close waits for the machine.
func copyAtOnce(ctx context.Context, c *fileCopy) error {
	from, to := c.dir, filepath.Join(c.mount, c.there)
	if c.way.down {
		from, to = to, c.back()
	}
	names, err := os.ReadDir(c.dir)
	if err != nil {
		return err
	}
	const script = `ls "$1" | (cd "$2" && xargs -P 8 -n "$4" cp -t "$3")`
	_, err = output(c.master.route.world.command(ctx, "sh", "-c", script, "sh", c.dir, from, to, fmt.Sprint((len(names)+7)/8)))
	return err
}
