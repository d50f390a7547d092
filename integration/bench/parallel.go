package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/sync/errgroup"
)

// manyAtOnce is so many files of one size, so many of them at a time.
type manyAtOnce struct{ count, size, atOnce int }

// measureParallel copies many small files at a time in one SFTP stream, as programs do that have a library for it: here Go's. The lane that the stream begins on
// is the limit there, and not the round trips.
func measureParallel(ctx context.Context, b *bench, w *world) ([]row, error) {
	_, plugin, _, err := w.clientRoutes()
	if err != nil {
		return nil, err
	}
	routes := []*route{plugin}
	for _, v := range []variant{laneVariants[0], laneVariants[len(laneVariants)-1]} {
		r, err := w.gatewayRoute(ctx, v)
		if err != nil {
			return nil, err
		}
		routes = append(routes, r)
	}
	var rows []row
	var errs []error
	for _, files := range b.parallel {
		more, err := w.compareParallel(ctx, files, routes)
		rows, errs = append(rows, more...), append(errs, err)
	}
	return rows, errors.Join(errs...)
}

// compareParallel copies the same files by each route, the first of which is the incumbent.
func (w *world) compareParallel(ctx context.Context, files manyAtOnce, routes []*route) (rows []row, err error) {
	dir := filepath.Join(w.bench.dir, fmt.Sprintf("parallel-%d", files.size))
	if err := randomFiles(dir, files.count, files.size); err != nil {
		return nil, err
	}
	var incumbent roundTrip
	for i, r := range routes {
		took, err := r.copyParallel(ctx, files, dir)
		if err != nil {
			return rows, fmt.Errorf("%d files at a time by %s: %w", files.atOnce, r.name, r.explain(err))
		}
		if i == 0 {
			incumbent = took
			continue
		}
		add := func(direction string, ours, theirs float64) {
			rows = append(rows, row{
				Name:   fmt.Sprintf("%d files of %d KiB %s, %d at a time: gateway, %s ÷ plugin", files.count, files.size>>10, direction, files.atOnce, r.lanesInWords()),
				Value:  theirs / ours,
				Detail: fmt.Sprintf("%.2f s, plugin %.2f s", ours, theirs),
			})
		}
		add("up", took.up, incumbent.up)
		add("down", took.down, incumbent.down)
	}
	return rows, nil
}

func (r *route) lanesInWords() string {
	if r.lanes > 1 {
		return fmt.Sprintf("%d lanes", r.lanes)
	}
	return "1 lane"
}

// roundTrip is how long the files took, in seconds.
type roundTrip struct{ up, down float64 }

// copyParallel copies the files of dir to the machine and back by a connection of its own, and compares.
func (r *route) copyParallel(ctx context.Context, files manyAtOnce, dir string) (took roundTrip, err error) {
	m, err := r.open(ctx)
	if err != nil {
		return took, err
	}
	defer m.close()
	client, end, err := m.sftp(ctx)
	if err != nil {
		return took, err
	}
	defer func() { err = errors.Join(err, end()) }()
	there := filepath.Base(dir) + "-" + strings.ReplaceAll(r.name, " ", "-")
	if err := client.Mkdir(there); err != nil {
		return took, err
	}
	back := filepath.Join(dir+"-back", there)
	if err := os.MkdirAll(back, 0o700); err != nil {
		return took, err
	}
	began := time.Now()
	if err := files.each(func(name string) error { return putFile(client, filepath.Join(dir, name), path.Join(there, name)) }); err != nil {
		return took, fmt.Errorf("up: %w", err)
	}
	took.up, began = time.Since(began).Seconds(), time.Now()
	if err := files.each(func(name string) error { return getFile(client, path.Join(there, name), filepath.Join(back, name)) }); err != nil {
		return took, fmt.Errorf("down: %w", err)
	}
	took.down = time.Since(began).Seconds()
	contents := func(dir string) *exec.Cmd {
		return r.world.command(ctx, "sh", "-c", "cd "+quote(dir)+" && cat file* | sha256sum")
	}
	return took, sameOutput(contents(dir), contents(back))
}

// sftp is a client in one SFTP stream of the connection.
func (m *master) sftp(ctx context.Context) (client *sftp.Client, end func() error, err error) {
	cmd := m.route.command(ctx, "ssh", "-S", m.socket, "-s", "machine", "sftp")
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, nil, err
	}
	client, err = sftp.NewClientPipe(out, in)
	if err != nil {
		return nil, nil, errors.Join(err, in.Close(), cmd.Wait())
	}
	return client, func() error { return errors.Join(client.Close(), cmd.Wait()) }, nil
}

// each does something with every file, as many of them at a time as are to be.
func (files manyAtOnce) each(do func(name string) error) error {
	var group errgroup.Group
	group.SetLimit(files.atOnce)
	for i := range files.count {
		group.Go(func() error { return do(fileName(i)) })
	}
	return group.Wait()
}

func putFile(client *sftp.Client, from, to string) error {
	content, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	f, err := client.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	return errors.Join(err, f.Close())
}

func getFile(client *sftp.Client, from, to string) error {
	f, err := client.Open(from)
	if err != nil {
		return err
	}
	var content bytes.Buffer
	_, err = f.WriteTo(&content)
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.WriteFile(to, content.Bytes(), 0o600)
}
