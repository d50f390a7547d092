package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

const smallFile = 4 << 10

// manyFiles is a way to copy a directory of small files.
type manyFiles struct {
	title string
	at    string // the directory on the machine, to which the name of the route is added: both routes lead to one sshd
	slow  bool   // waits for the machine several times per file, so that there may be fewer of them
	copy  func(ctx context.Context, m *master, dir, there string) error
	same  func(ctx context.Context, m *master, dir, there string) error // checks what has arrived
}

// waysForManyFiles in the order of the table. What goes down is what scp -r has put there.
var waysForManyFiles = []manyFiles{
	{"up, rsync", "by-rsync", false, rsyncUp, sameThere},
	{"up, sftp put -r", "by-sftp", true, sftpUp, sameThere},
	{"up, scp -r", "by-scp", true, scpUp, sameThere},
	{"down, scp -r", "by-scp", true, scpDown, sameHere},
}

// measureFiles copies many small files: by rsync, which sends them in a stream, and by sftp and scp -r, which wait for the machine several times for each.
func measureFiles(ctx context.Context, b *bench, w *world) ([]row, error) {
	_, plugin, _, err := w.clientRoutes()
	if err != nil {
		return nil, err
	}
	inspectedRoute, err := w.gatewayRoute(ctx, inspected)
	if err != nil {
		return nil, err
	}
	routes := []*route{plugin, inspectedRoute}
	if w.rate > 0 { // else it is not messages that a stream waits for
		r, err := w.gatewayRoute(ctx, discovered)
		if err != nil {
			return nil, err
		}
		routes = append(routes, r)
	}
	var masters []*master
	defer func() {
		for _, m := range masters {
			m.close()
		}
	}()
	for _, r := range routes {
		m, err := r.open(ctx)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", r.name, r.explain(err))
		}
		masters = append(masters, m)
	}
	var rows []row
	var errs []error
	for _, way := range waysForManyFiles {
		own := masters[1:]
		if way.slow {
			own = own[:1]
		}
		more, err := w.compareFiles(ctx, way, own, masters[0])
		rows, errs = append(rows, more...), append(errs, err)
	}
	return rows, errors.Join(errs...)
}

// compareFiles copies the same files by the incumbent and by each of our own routes.
func (w *world) compareFiles(ctx context.Context, way manyFiles, own []*master, incumbent *master) ([]row, error) {
	b := w.bench
	count, enough := b.files[w.name], atLeast(3)
	if way.slow {
		count = b.copied[w.name]
	}
	if w.rate > 0 {
		enough = atLeast(2)
	}
	dir := filepath.Join(b.dir, fmt.Sprintf("files-%d", count))
	if err := smallFiles(dir, count); err != nil {
		return nil, err
	}
	title := fmt.Sprintf("%d files of 4 KiB %s", count, way.title)
	z, err := incumbent.copyFiles(ctx, way, dir, count)
	if err != nil {
		return nil, fmt.Errorf("%s by the plugin: %w", title, err)
	}
	var rows []row
	for _, m := range own {
		a, err := m.copyFiles(ctx, way, dir, count)
		if err != nil {
			return rows, fmt.Errorf("%s by the gateway: %w", title, m.route.explain(err))
		}
		titled := title
		if m.route.name == discovered.name {
			titled += fmt.Sprintf(", payload discovered up to %d", discovered.discover)
		}
		rows = append(rows, row{
			Name: titled + ": gateway ÷ plugin", Value: z.seconds / a.seconds, Goal: enough, Detail: fmt.Sprintf("%.2f s, plugin %.2f s", a.seconds, z.seconds),
		})
		if a.cost > 0 && z.cost > 0 {
			rows = append(rows, row{
				Name: titled + ", CPU per file: gateway ÷ plugin", Value: a.cost / z.cost, Detail: fmt.Sprintf("%.2f ms, plugin %.2f ms", a.cost*1e3, z.cost*1e3),
			})
		}
	}
	return rows, nil
}

// copied is what one copy of many files came to.
type copied struct {
	seconds float64
	cost    float64 // processor seconds per file of the process that carries them; zero if unknown
}

// copyFiles times one copy through an open connection, and compares.
func (m *master) copyFiles(ctx context.Context, way manyFiles, dir string, count int) (c copied, err error) {
	there := way.at + "-" + strings.ReplaceAll(m.route.name, " ", "-")
	before, costErr := m.carrierTime()
	began := time.Now()
	if err := way.copy(ctx, m, dir, there); err != nil {
		return c, err
	}
	c.seconds = time.Since(began).Seconds()
	if after, err := m.carrierTime(); errors.Join(costErr, err) == nil {
		c.cost = (after - before).Seconds() / float64(count)
	}
	return c, way.same(ctx, m, dir, there)
}

// rsyncUp needs no directory on the machine; it makes one.
func rsyncUp(ctx context.Context, m *master, dir, there string) error {
	shell := fmt.Sprintf("ssh -F %s -S %s", m.route.config, m.socket)
	_, err := output(m.route.world.command(ctx, "rsync", "-r", "-e", shell, dir+"/", "machine:"+there+"/"))
	return err
}

func sftpUp(ctx context.Context, m *master, dir, there string) error {
	cmd := m.route.command(ctx, "sftp", "-q", "-b", "-", "-o", "ControlPath="+m.socket, "machine")
	cmd.Stdin = strings.NewReader(fmt.Sprintf("put -r %s %s\n", dir, there))
	_, err := output(cmd)
	return err
}

func scpUp(ctx context.Context, m *master, dir, there string) error {
	_, err := output(m.scp(ctx, "-r", dir, "machine:"+there))
	return err
}

func scpDown(ctx context.Context, m *master, dir, there string) error {
	_, err := output(m.scp(ctx, "-r", "machine:"+there, back(dir, there)))
	return err
}

// back is where scpDown puts what it fetches.
func back(dir, there string) string { return dir + ".back-" + there }

const contents = "cat file* | sha256sum"

// sameThere compares what is on the machine with what was sent: a fast copy that spoils a byte is no result.
func sameThere(ctx context.Context, m *master, dir, there string) error {
	return sameOutput(m.route.world.command(ctx, "sh", "-c", "cd "+quote(dir)+" && "+contents), m.ssh(ctx, "cd "+there+" && "+contents))
}

func sameHere(ctx context.Context, m *master, dir, there string) error {
	w := m.route.world
	return sameOutput(w.command(ctx, "sh", "-c", "cd "+quote(dir)+" && "+contents), w.command(ctx, "sh", "-c", "cd "+quote(back(dir, there))+" && "+contents))
}

func sameOutput(a, b *exec.Cmd) error {
	want, err := output(a)
	if err != nil {
		return err
	}
	got, err := output(b)
	if err == nil && !bytes.Equal(got, want) {
		err = errDiffers
	}
	return err
}

// smallFiles makes a directory of random files, unless it is there.
func smallFiles(dir string, count int) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	content := make([]byte, smallFile)
	for i := range count {
		_, _ = rand.Read(content) // never fails, see crypto/rand
		if err := os.WriteFile(filepath.Join(dir, fmt.Sprintf("file%04d", i)), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
