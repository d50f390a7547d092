package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"golang.org/x/sync/errgroup"
)

// measureKeystroke times the echo of one byte on a connection, alone and beside a bulk transfer on the same connection in either direction.
func measureKeystroke(ctx context.Context, b *bench, w *world) ([]row, error) {
	plain, plugin, connect, err := w.clientRoutes()
	if err != nil {
		return nil, err
	}
	gateway, err := w.gatewayRoute(ctx, inspected)
	if err != nil {
		return nil, err
	}
	busy := atMost(2)
	if w.rate > 0 {
		busy = atMost(1.3)
	}
	typists := []*typist{{route: gateway, title: "gateway", goal: busy}}
	// The others carry both on one session. On a small machine a transfer costs the keystroke something on any way.
	for _, other := range []*route{plain, connect, plugin} {
		if slices.Contains(b.typists[w.name], other.name) {
			typists = append(typists, &typist{route: other, title: other.name})
		}
	}
	return b.typed(ctx, plain, typists)
}

// measureNarrow does the same where the client's own line is what limits a transfer: everything in front of an echo waits for that line.
func measureNarrow(ctx context.Context, b *bench, w *world) ([]row, error) {
	gateway, err := w.gatewayRoute(ctx, narrow)
	if err != nil {
		return nil, err
	}
	plain, err := w.plainNarrowRoute()
	if err != nil {
		return nil, err
	}
	const behind = ", client behind 16 Mbit/s"
	return b.typed(ctx, plain, []*typist{{route: gateway, title: "gateway" + behind}, {route: plain, title: plainName + behind}})
}

// directions of a transfer, in the order of the rows.
var directions = []string{"down", "up"}

// typist is somebody who types on one way.
type typist struct {
	route  *route
	title  string
	goal   goal // for keys beside bulk
	master *master
	keys   *keyboard
	err    error // then no more is typed

	alone  stretches
	beside map[string]*stretches // a transfer, by direction
}

// stretches are of one kind, one of each round.
type stretches struct {
	own []samples
	// control has the echoes of plain ssh at the same time, on a connection that carries nothing else: what takes as long there has waited for the
	// machine or a processor, and not behind the transfer.
	control []samples
	rates   samples // of the transfer, in MiB per second
}

// typed lets them type in turns, each alone and then beside a transfer, several times over, so that a moment in which the machine had other things to do
// is not that of one of them only. An error of one does not keep the others from typing.
func (b *bench) typed(ctx context.Context, bare *route, typists []*typist) (rows []row, err error) {
	control := &typist{route: bare}
	defer control.stop()
	if control.start(ctx); control.err != nil {
		return nil, fmt.Errorf("the control: %w", control.err)
	}
	for _, t := range typists {
		t.start(ctx)
	}
	defer func() {
		for _, t := range typists {
			t.stop()
		}
	}()
	for range b.turns {
		for _, t := range typists {
			if t.err == nil {
				t.err = t.round(ctx, b, control.keys)
			}
		}
	}
	var errs []error
	for _, t := range typists {
		rows = append(rows, t.rows()...)
		if t.err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", t.title, t.route.explain(t.err)))
		}
	}
	return rows, errors.Join(errs...)
}

func (t *typist) start(ctx context.Context) {
	t.beside = map[string]*stretches{}
	for _, direction := range directions {
		t.beside[direction] = &stretches{}
	}
	if t.master, t.err = t.route.open(ctx); t.err == nil {
		t.keys, t.err = t.master.keyboard(ctx)
	}
}

func (t *typist) stop() {
	if t.keys != nil {
		t.keys.close()
	}
	if t.master != nil {
		t.master.close()
	}
}

// round types alone, and beside a transfer in each direction.
func (t *typist) round(ctx context.Context, b *bench, control *keyboard) error {
	press := func(s *stretches) error {
		var own, other samples
		var both errgroup.Group
		both.Go(func() (err error) { own, err = t.keys.typeFor(ctx, b.keys); return err })
		both.Go(func() (err error) { other, err = control.typeFor(ctx, b.keys); return err })
		if err := both.Wait(); err != nil {
			return err
		}
		s.own, s.control = append(s.own, own), append(s.control, other)
		return nil
	}
	if err := press(&t.alone); err != nil {
		return err
	}
	for _, direction := range directions {
		s := t.beside[direction]
		rate, err := t.master.beside(ctx, direction, func() error { return press(s) })
		if err != nil {
			return fmt.Errorf("beside a transfer %s: %w", direction, err)
		}
		s.rates = append(s.rates, rate)
	}
	return nil
}

// rows sum the rounds up. Each compares with its own idle time, and the middle one counts: what comes once a second is in every one of them, and what
// the machine does once in a while is not.
func (t *typist) rows() (rows []row) {
	if len(t.alone.own) > 0 {
		rows = append(rows, row{Name: "keystroke echo, idle, p99: " + t.title, Value: worst(t.alone.own) * 1e3, Unit: "ms", Detail: t.alone.figures()})
	}
	for _, direction := range directions {
		s := t.beside[direction]
		if len(s.rates) == 0 {
			continue
		}
		var ratios samples
		for i, beside := range s.own {
			ratios = append(ratios, beside.quantile(0.99)/t.alone.own[i].quantile(0.99))
		}
		rows = append(rows, row{
			Name: "keystroke echo p99 beside bulk " + direction + " ÷ idle: " + t.title, Value: ratios.median(), Goal: t.goal,
			Detail: "beside " + number(s.rates.median()) + " MiB/s " + s.figures(),
		})
	}
	return rows
}

// worst is the middle one of the rounds' 99th percentiles.
func worst(rounds []samples) float64 {
	var each samples
	for _, s := range rounds {
		each = append(each, s.quantile(0.99))
	}
	return each.median()
}

// figures are those behind a row, and what they were at the same time for the control.
func (s *stretches) figures() string {
	ms := func(rounds []samples) string {
		return fmt.Sprintf("p50 %s, p99 %s ms", number(slices.Concat(rounds...).median()*1e3), number(worst(rounds)*1e3))
	}
	return fmt.Sprintf("%s, %d keys in %d rounds; plain ssh by itself meanwhile %s", ms(s.own), len(slices.Concat(s.own...)), len(s.own), ms(s.control))
}
