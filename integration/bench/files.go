package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const smallFile = 4 << 10

// measureFiles copies many small files up: by rsync, which sends them in a stream, and by scp -r, which waits for the machine several times for each.
func measureFiles(ctx context.Context, b *bench, w *world) ([]row, error) {
	_, plugin, _, err := w.clientRoutes()
	if err != nil {
		return nil, err
	}
	gateway, err := w.gatewayRoute(ctx, inspected)
	if err != nil {
		return nil, err
	}
	many, some := b.files[w.name], b.copied[w.name]
	enough := atLeast(3)
	if w.rate > 0 {
		enough = atLeast(2)
	}
	var rows []row
	for _, tool := range []struct {
		name  string
		count int
		copy  func(ctx context.Context, m *master, dir string) error
	}{{"rsync", many, rsyncUp}, {"scp -r", some, scpUp}} {
		dir := filepath.Join(b.dir, fmt.Sprintf("files-%d", tool.count))
		if err := smallFiles(dir, tool.count); err != nil {
			return rows, err
		}
		took := map[string]*samples{plugin.name: {}, gateway.name: {}}
		for _, r := range []*route{gateway, plugin} {
			if err := copyFiles(ctx, r, dir, tool.count, took[r.name], tool.copy); err != nil {
				return rows, fmt.Errorf("%s by %s: %w", tool.name, r.name, err)
			}
		}
		own, incumbent := took[gateway.name].median(), took[plugin.name].median()
		rows = append(rows, row{
			Name: fmt.Sprintf("%d files of 4 KiB up, %s: gateway ÷ plugin", tool.count, tool.name), Value: incumbent / own, Goal: enough,
			Detail: fmt.Sprintf("%.2f s, plugin %.2f s", own, incumbent),
		})
	}
	return rows, nil
}

// copyFiles times one copy through an open connection and counts what has arrived.
func copyFiles(ctx context.Context, r *route, dir string, count int, took *samples, how func(context.Context, *master, string) error) error {
	m, err := r.open(ctx)
	if err != nil {
		return err
	}
	defer m.close()
	if _, err := output(m.ssh(ctx, "rm -rf files && mkdir files")); err != nil {
		return err
	}
	began := time.Now()
	if err := how(ctx, m, dir); err != nil {
		return err
	}
	took.add(time.Since(began))
	there, err := output(m.ssh(ctx, "find files -type f -size 4096c | wc -l"))
	if err == nil && strings.TrimSpace(string(there)) != fmt.Sprint(count) {
		err = fmt.Errorf("%w: %s of %d files", errDiffers, strings.TrimSpace(string(there)), count)
	}
	return err
}

func rsyncUp(ctx context.Context, m *master, dir string) error {
	shell := fmt.Sprintf("ssh -F %s -S %s", m.route.config, m.socket)
	_, err := output(m.route.world.command(ctx, "rsync", "-r", "-e", shell, dir+"/", "machine:files/"))
	return err
}

func scpUp(ctx context.Context, m *master, dir string) error {
	_, err := output(m.scp(ctx, "-r", dir, "machine:files/"))
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
