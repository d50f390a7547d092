package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"
)

const mebibyte = 1 << 20

// flow is what the transfers of one route in one direction came to.
type flow struct {
	size int     // MiB of each
	rate samples // MiB per second
	cost samples // processor seconds per MiB of the process that carries the bytes
}

// flows of one route. A failure leaves the other routes their results.
type flows struct {
	down, up flow
	err      error
}

// measureTransfer times scp both ways through connections that are already open, and asks what that cost the process in the middle.
func measureTransfer(ctx context.Context, b *bench, w *world) ([]row, error) {
	routes, err := w.transferRoutes(ctx)
	if err != nil {
		return nil, err
	}
	masters, err := openAll(ctx, routes)
	defer closeAll(masters)
	if err != nil {
		return nil, err
	}
	store, err := w.openStore(ctx)
	if err != nil {
		return nil, err
	}
	defer store.close()
	if err := store.stock(ctx, masters); err != nil {
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
			if f.err == nil {
				f.err = m.route.explain(m.transfer(ctx, f))
			}
		}
	}
	for _, v := range laneVariants {
		if f := results[v.name]; f != nil && f.err == nil {
			b.lanes = append(b.lanes, lanePoint{w.name, max(v.lanes, 1), f.down.rate.median(), f.up.rate.median()})
		}
	}
	var errs []error
	for _, m := range masters {
		if err := results[m.route.name].err; err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", m.route.name, err))
		}
	}
	return transferRows(w.condition, results), errors.Join(errs...)
}

// transferRoutes are all ways that take part.
func (w *world) transferRoutes(ctx context.Context) ([]*route, error) {
	plain, plugin, connect, err := w.clientRoutes()
	if err != nil {
		return nil, err
	}
	routes := []*route{plain, plugin}
	if w.bench.ways.MatchString(connect.name) {
		routes = append(routes, connect)
	}
	for _, v := range append([]variant{inspected16, passthrough, withAES}, laneVariants...) {
		if !w.bench.ways.MatchString(v.name) {
			continue
		}
		r, err := w.gatewayRoute(ctx, v)
		if err != nil {
			return nil, err
		}
		routes = append(routes, r)
	}
	return routes, nil
}

// reference is a random file, so that nothing on the way can make it smaller, of a size that keeps the way busy for a while. It is on both sides under the same name.
func (r *route) reference(slow bool) (name string, size int) {
	switch {
	case !slow:
		size = r.world.bench.fast
	case r.lanes > 1:
		size = r.world.bench.spread[r.lanes]
	default:
		size = r.world.bench.slow
	}
	return fmt.Sprintf("random-%d", size), size
}

// openStore opens the fastest way there is, by which the machine gets what ways down need.
func (w *world) openStore(ctx context.Context) (*master, error) {
	r, err := w.storeRoute()
	if err != nil {
		return nil, err
	}
	return r.open(ctx)
}

// stock puts the reference files of all ways on both sides.
func (m *master) stock(ctx context.Context, all []*master) error {
	done := map[string]bool{}
	for _, other := range all {
		for _, slow := range []bool{other.route.slowUp, other.route.slowDown} {
			name, size := other.route.reference(slow)
			file := filepath.Join(m.route.world.bench.dir, name)
			if done[name] {
				continue
			}
			done[name] = true
			if err := randomFile(file, size*mebibyte); err != nil {
				return err
			}
			if _, err := output(m.scp(ctx, file, "machine:"+name)); err != nil {
				return err
			}
		}
	}
	return nil
}

// transfer copies a reference file each way that is of interest, and compares what has arrived: a fast transfer that spoils a byte is no result.
func (m *master) transfer(ctx context.Context, f *flows) error {
	name, size := m.route.reference(m.route.slowUp)
	if err := m.carried("up", size, &f.up, m.scp(ctx, filepath.Join(m.route.world.bench.dir, name), "machine:up")); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	if _, err := output(m.ssh(ctx, "cmp up "+name)); err != nil {
		return fmt.Errorf("up: %w: %w", errDiffers, err)
	}
	if m.route.upOnly {
		return nil
	}
	name, size = m.route.reference(m.route.slowDown)
	sent := filepath.Join(m.route.world.bench.dir, name)
	if err := m.carried("down", size, &f.down, m.scp(ctx, "machine:"+name, sent+".back")); err != nil {
		return fmt.Errorf("down: %w", err)
	}
	return sameContent(sent, sent+".back")
}

// carried times one copy of size MiB and what it cost the process in the middle.
func (m *master) carried(direction string, size int, f *flow, copying *exec.Cmd) error {
	before, costErr := m.carrierTime()
	var took time.Duration
	err := m.profiled(direction, func() (err error) {
		took, err = timed(copying)
		return err
	})
	if err != nil {
		return err
	}
	f.size = size
	f.rate = append(f.rate, float64(size)/took.Seconds())
	if after, err := m.carrierTime(); errors.Join(costErr, err) == nil {
		f.cost = append(f.cost, (after-before).Seconds()/float64(size))
	}
	return nil
}

// transferRows compares each way with the plugin. The goals for many lanes are those of the variant with the most.
func transferRows(c condition, results map[string]*flows) []row {
	many, fat, cheap := atLeast(25), atLeast(50), atMost(0.25)
	if c.rate > 0 {
		many, fat = atLeast(7), atLeast(15)
	}
	type way struct {
		route, title string
		down, up     goal
		cost         goal
	}
	var ways []way
	for n, v := range laneVariants {
		w := way{route: v.name, title: fmt.Sprintf("gateway, %d lane", max(v.lanes, 1))}
		if v.lanes > 1 {
			w.title += "s"
		} else {
			w.cost = cheap
		}
		if n == len(laneVariants)-1 {
			w.down, w.up = many, many
		}
		ways = append(ways, w)
	}
	ways = append(ways, way{route: withAES.name, title: "gateway, 1 lane, AES-GCM"}, way{route: passthrough.name, title: "passthrough"}, way{route: connectName, title: connectName, cost: cheap})

	plugin, plain := results[pluginName].good(), results[plainName].good()
	var rows []row
	for _, w := range ways {
		if results[w.route] == nil {
			continue // not asked for
		}
		f := results[w.route].good()
		rows = append(rows, rateRow("scp down: "+w.title+" ÷ plugin", f.down, plugin.down, w.down), rateRow("scp up: "+w.title+" ÷ plugin", f.up, plugin.up, w.up),
			costRow("CPU per MiB down: "+w.title+" ÷ plugin", f.down, plugin.down, w.cost), costRow("CPU per MiB up: "+w.title+" ÷ plugin", f.up, plugin.up, w.cost))
	}
	if f := results[inspected16.name]; f != nil {
		rows = append(rows, rateRow("scp up: gateway, 1 lane, 16 KiB payload ÷ plugin", f.good().up, plugin.up, fat))
	}
	return append(rows,
		rateRow("scp down: plain ssh ÷ plugin", plain.down, plugin.down, goal{}), rateRow("scp up: plain ssh ÷ plugin", plain.up, plugin.up, goal{}))
}

// good is without the figures of a way that has failed: one that loses data has no speed.
func (f *flows) good() *flows {
	if f.err != nil {
		return &flows{}
	}
	return f
}

// rateRow says with each rate how much was transferred.
func rateRow(name string, own, incumbent flow, g goal) row {
	a, z := own.rate.median(), incumbent.rate.median()
	detail := fmt.Sprintf("%s MiB/s of %d MiB, plugin %s of %d", number(a), own.size, number(z), incumbent.size)
	return row{Name: name, Value: a / z, Goal: g, Detail: detail}
}

func costRow(name string, own, incumbent flow, g goal) row {
	if len(own.cost) == 0 || len(incumbent.cost) == 0 {
		return row{Name: name, Goal: g, Err: errNoCost}
	}
	a, z := own.cost.median(), incumbent.cost.median()
	return row{Name: name, Value: a / z, Goal: g, Detail: fmt.Sprintf("%.3f s per MiB, plugin %.3f", a, z)}
}

var errNoCost = errors.New("not measured: a transfer failed, or the system does not tell the processor time of other processes")

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
