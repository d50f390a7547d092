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

	"golang.org/x/sync/errgroup"
)

const smallFile = 4 << 10

// measureFiles copies many small files by programs that stream them and by programs that wait for the machine several times for each.
func measureFiles(ctx context.Context, b *bench, w *world) ([]row, error) {
	store, err := w.openStore(ctx)
	if err != nil {
		return nil, err
	}
	defer store.close()
	var rows []row
	var errs []error
	for _, c := range campaigns {
		count := c.count(b.plan)[w.name]
		ways := c.possible()
		if count == 0 || len(ways) == 0 {
			continue
		}
		dir := filepath.Join(b.dir, fmt.Sprintf("files-%d", count))
		if err := smallFiles(dir, count); err != nil {
			return rows, err
		}
		if err := rsyncUp(ctx, &fileCopy{master: store, dir: dir, there: filepath.Base(dir)}); err != nil { // what goes down
			return rows, err
		}
		more, err := w.campaign(ctx, c, ways, dir, count)
		rows, errs = append(rows, more...), append(errs, err)
	}
	return rows, errors.Join(errs...)
}

// fileCopy is one copy of many files by one way over one connection.
type fileCopy struct {
	way    manyFiles
	master *master
	dir    string // here
	there  string // on the machine, from the home directory
	mount  string // where the machine's files are here, on some ways
	door   *door  // by which some ways enter

	seconds float64
	cost    float64 // processor seconds per file of the process that carries them; zero if unknown, as behind a door
}

// campaign makes the same copies over the incumbent and over gateways, each copy over a connection of its own, and each of ours through a gateway of its own, so that
// its processor time can be told. They take turns, unless all they do is wait for round trips: those do not hold each other up.
func (w *world) campaign(ctx context.Context, c campaign, ways []manyFiles, dir string, count int) ([]row, error) {
	var routes []*route
	var copies []*fileCopy
	for _, way := range ways {
		over, err := w.fileRoutes(ctx, way)
		if err != nil {
			return nil, err
		}
		for _, r := range over {
			routes = append(routes, r)
			copies = append(copies, &fileCopy{way: way, dir: dir, there: way.thereBy(r, dir)})
		}
	}
	masters, err := openAll(ctx, routes)
	defer closeAll(masters)
	if err != nil {
		return nil, err
	}
	var turns errgroup.Group
	if !c.waits || w.rtt == 0 {
		turns.SetLimit(1)
	}
	errs := make([]error, len(copies))
	for i, copying := range copies {
		copying.master = masters[i]
		turns.Go(func() error {
			if err := copying.run(ctx, count); err != nil {
				errs[i] = fmt.Errorf("%s by %s: %w", copying.way.title, masters[i].route.name, masters[i].route.explain(err))
			}
			return nil
		})
	}
	_ = turns.Wait() // the errors are in errs, so that none stops the others
	return fileRows(w.condition, copies, errs, count), errors.Join(errs...)
}

// fileRoutes are the ways in for one campaign: the incumbent first.
func (w *world) fileRoutes(ctx context.Context, way manyFiles) ([]*route, error) {
	plugin, err := w.pluginRoute()
	if err != nil {
		return nil, err
	}
	variants := []variant{{name: "files-" + way.at}}
	if way.streams && w.rate > 0 { // else it is not messages that a stream waits for
		variants = append(variants, discovered)
	}
	routes := []*route{plugin}
	for _, v := range variants {
		r, err := w.gatewayRoute(ctx, v)
		if err != nil {
			return nil, err
		}
		routes = append(routes, r)
	}
	return routes, nil
}

// fileRows compares each copy with that of the incumbent, which comes before it.
func fileRows(c condition, copies []*fileCopy, errs []error, count int) (rows []row) {
	enough := atLeast(3)
	if c.rate > 0 {
		enough = atLeast(2)
	}
	var incumbent *fileCopy
	for i, own := range copies {
		if errs[i] != nil {
			continue
		}
		if own.master.route.name == pluginName {
			incumbent = own
			continue
		}
		if incumbent == nil || incumbent.way.at != own.way.at {
			continue // it has failed
		}
		name := fmt.Sprintf("%d files of 4 KiB %s", count, own.way.title)
		if own.master.route.name == discovered.name {
			name += fmt.Sprintf(", payload discovered up to %d", discovered.discover)
		}
		r := row{Name: name + ": gateway ÷ plugin", Value: incumbent.seconds / own.seconds, Detail: fmt.Sprintf("%.2f s, plugin %.2f s", own.seconds, incumbent.seconds)}
		if own.way.needs == "" {
			r.Goal = enough
		}
		rows = append(rows, r)
		if own.cost > 0 && incumbent.cost > 0 {
			rows = append(rows, row{
				Name: name + ", CPU per file: gateway ÷ plugin", Value: own.cost / incumbent.cost,
				Detail: fmt.Sprintf("%.2f ms, plugin %.2f ms", own.cost*1e3, incumbent.cost*1e3),
			})
		}
	}
	return rows
}

// run times one copy through what is already open, and compares what has arrived: a fast copy that spoils a byte is no result.
func (c *fileCopy) run(ctx context.Context, count int) (err error) {
	if c.way.ready != nil {
		done, err := c.way.ready(ctx, c)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, done()) }()
	}
	before, costErr := c.master.carrierTime()
	err = c.master.profiled("files-"+c.way.at, func() error {
		began := time.Now()
		err := c.way.copy(ctx, c)
		c.seconds = time.Since(began).Seconds()
		return err
	})
	if err != nil {
		return err
	}
	if after, err := c.master.carrierTime(); errors.Join(costErr, err) == nil && c.door == nil {
		c.cost = (after - before).Seconds() / float64(count)
	}
	w, contents := c.master.route.world, "cat file* | sha256sum"
	sent := w.command(ctx, "sh", "-c", "cd "+quote(c.dir)+" && "+contents)
	if c.way.down {
		return sameOutput(sent, w.command(ctx, "sh", "-c", "cd "+quote(c.back())+" && "+contents))
	}
	return sameOutput(sent, c.master.ssh(ctx, "cd "+c.there+" && "+contents))
}

// back is where a way down puts what it fetches.
func (c *fileCopy) back() string {
	return fmt.Sprintf("%s.back-%s-%s", c.dir, c.way.at, strings.ReplaceAll(c.master.route.name, " ", "-"))
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
func smallFiles(dir string, count int) error { return randomFiles(dir, count, smallFile) }

func randomFiles(dir string, count, size int) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	content := make([]byte, size)
	for i := range count {
		_, _ = rand.Read(content) // never fails, see crypto/rand
		if err := os.WriteFile(filepath.Join(dir, fileName(i)), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}

func fileName(i int) string { return fmt.Sprintf("file%04d", i) }
