package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"
)

const mebibyte = 1 << 20

// flow is what the transfers of one route in one direction came to.
type flow struct {
	rate samples // MiB per second
	cost samples // processor seconds per MiB of the process that carries the bytes
}

// flows of one route.
type flows struct{ down, up flow }

// measureTransfer times scp both ways through connections that are already open, and asks what that cost the process in the middle.
func measureTransfer(ctx context.Context, b *bench, w *world) ([]row, error) {
	masters, err := w.openAll(ctx)
	defer func() {
		for _, m := range masters {
			m.close()
		}
	}()
	if err != nil {
		return nil, err
	}
	results := map[string]*flows{}
	for range b.transfers {
		for _, m := range masters {
			f := results[m.route.name]
			if f == nil {
				f = &flows{}
				results[m.route.name] = f
			}
			if err := m.transfer(ctx, b, f); err != nil {
				return nil, fmt.Errorf("%s: %w", m.route.name, m.route.explain(err))
			}
		}
	}
	for _, v := range laneVariants {
		if f := results[v.name]; f != nil {
			b.lanes = append(b.lanes, lanePoint{w.name, max(v.lanes, 1), f.down.rate.median(), f.up.rate.median()})
		}
	}
	return transferRows(w.condition, results), nil
}

// openAll logs in by every way once.
func (w *world) openAll(ctx context.Context) ([]*master, error) {
	plain, plugin, connect, err := w.clientRoutes()
	if err != nil {
		return nil, err
	}
	routes := []*route{plain, plugin, connect}
	seen := map[string]bool{}
	for _, v := range append([]variant{inspected, inspected16, passthrough}, laneVariants...) {
		if seen[v.name] {
			continue
		}
		seen[v.name] = true
		r, err := w.gatewayRoute(ctx, v)
		if err != nil {
			return nil, err
		}
		routes = append(routes, r)
	}
	var masters []*master
	for _, r := range routes {
		m, err := r.open(ctx)
		if err != nil {
			return masters, fmt.Errorf("%s: %w", r.name, r.explain(err))
		}
		masters = append(masters, m)
	}
	return masters, nil
}

// transfer copies one file there and back again. It is random, so that nothing on the way can make it smaller.
func (m *master) transfer(ctx context.Context, b *bench, f *flows) error {
	size := b.fast
	if m.route.slow {
		size = b.slow
	}
	file := filepath.Join(b.dir, fmt.Sprintf("random-%d", size))
	if err := randomFile(file, size*mebibyte); err != nil {
		return err
	}
	if err := m.carried(size, &f.up, func() (time.Duration, error) { return timed(m.scp(ctx, file, "machine:bulk")) }); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	if err := m.carried(size, &f.down, func() (time.Duration, error) { return timed(m.scp(ctx, "machine:bulk", file+".back")) }); err != nil {
		return fmt.Errorf("down: %w", err)
	}
	return sameContent(file, file+".back")
}

// carried times one copy of size MiB and what it cost the process in the middle.
func (m *master) carried(size int, f *flow, copying func() (time.Duration, error)) error {
	before, costErr := m.carrierTime()
	took, err := copying()
	if err != nil {
		return err
	}
	f.rate = append(f.rate, float64(size)/took.Seconds())
	if after, err := m.carrierTime(); errors.Join(costErr, err) == nil {
		f.cost = append(f.cost, (after-before).Seconds()/float64(size))
	}
	return nil
}

func transferRows(c condition, results map[string]*flows) []row {
	many, fat, cheap := atLeast(25), atLeast(50), atMost(0.25)
	if c.rate > 0 {
		many, fat = atLeast(7), atLeast(15)
	}
	plugin := results["CLI + plugin"]
	var rows []row
	for _, way := range []struct {
		route, title string
		down, up     goal
		cost         goal
	}{
		{inspected.name, "gateway", many, many, cheap},
		{inspected16.name, "gateway, 16 KiB payload", goal{}, fat, goal{}},
		{passthrough.name, "passthrough", goal{}, goal{}, goal{}},
		{"connect", "connect", goal{}, goal{}, cheap},
	} {
		f := results[way.route]
		if way.route != inspected16.name {
			rows = append(rows, rateRow("scp down, 1 lane: "+way.title+" ÷ plugin", f.down, plugin.down, way.down))
		}
		rows = append(rows, rateRow("scp up, 1 lane: "+way.title+" ÷ plugin", f.up, plugin.up, way.up))
		if way.route != inspected16.name {
			rows = append(rows, costRow("CPU per MB down: "+way.title+" ÷ plugin", f.down, plugin.down, way.cost),
				costRow("CPU per MB up: "+way.title+" ÷ plugin", f.up, plugin.up, way.cost))
		}
	}
	plain := results["plain ssh"]
	return append(rows, rateRow("scp down: plain ssh ÷ plugin", plain.down, plugin.down, goal{}), rateRow("scp up: plain ssh ÷ plugin", plain.up, plugin.up, goal{}))
}

func rateRow(name string, own, incumbent flow, g goal) row {
	a, z := own.rate.median(), incumbent.rate.median()
	return row{Name: name, Value: a / z, Goal: g, Detail: fmt.Sprintf("%s MiB/s, plugin %s", number(a), number(z))}
}

func costRow(name string, own, incumbent flow, g goal) row {
	if len(own.cost) == 0 || len(incumbent.cost) == 0 {
		return row{Name: name, Goal: g, Err: errNoProc}
	}
	a, z := own.cost.median(), incumbent.cost.median()
	return row{Name: name, Value: a / z, Goal: g, Detail: fmt.Sprintf("%.3f s per MiB, plugin %.3f", a, z)}
}

// randomFile writes a file of that size, unless it is there.
func randomFile(path string, size int) error {
	if info, err := os.Stat(path); err == nil && info.Size() == int64(size) {
		return nil
	}
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.CopyN(file, rand.Reader, int64(size))
	return errors.Join(err, file.Close())
}
