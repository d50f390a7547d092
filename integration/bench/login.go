package main

import (
	"context"
	"fmt"
)

// measureLogin times `ssh … true`: from the start of ssh to its end. The ways take turns.
func measureLogin(ctx context.Context, b *bench, w *world) ([]row, error) {
	plain, plugin, connect, err := w.clientRoutes()
	if err != nil {
		return nil, err
	}
	times := map[string]*samples{}
	sample := func(name string, r *route) error {
		if err := w.pusher.letIn(ctx); err != nil {
			return err
		}
		took, err := timed(r.command(ctx, "ssh", "machine", "true"))
		if err != nil {
			return fmt.Errorf("%s: %w", name, r.explain(err))
		}
		if times[name] == nil {
			times[name] = &samples{}
		}
		times[name].add(took)
		return nil
	}
	for range b.logins {
		for _, r := range []*route{plain, plugin, connect} {
			if r == connect && b.quick { // it has no goal
				continue
			}
			if err := sample(r.name, r); err != nil {
				return nil, err
			}
		}
		for _, v := range b.enters {
			if _, err := w.freshGateway(ctx, v); err != nil { // cold: it remembers nothing
				return nil, err
			}
			r, err := w.gatewayRoute(ctx, v)
			if err != nil {
				return nil, err
			}
			for _, which := range []string{" cold", " second"} {
				if err := sample(v.name+which, r); err != nil {
					return nil, err
				}
			}
		}
	}
	return loginRows(w.condition, times), nil
}

func loginRows(c condition, times map[string]*samples) []row {
	floor, incumbent := times[plainName].median(), times[pluginName].median()
	cold, warm := atMost(0.25), atMost(2)
	if c.rtt > 0 {
		cold = atMost(0.5)
	}
	var rows []row
	for _, way := range []struct {
		name, title string
		goal        goal
	}{{"inspected cold", "gateway", cold}, {"passthrough cold", "passthrough", goal{}}, {connectName, connectName, goal{}}} {
		if times[way.name] == nil {
			continue // not asked for
		}
		own := times[way.name].median()
		rows = append(rows, row{
			Name: "ssh true, cold: (" + way.title + " − plain) ÷ (plugin − plain)", Value: (own - floor) / (incumbent - floor), Goal: way.goal,
			Detail: fmt.Sprintf("%.2f s, plugin %.2f s, plain %.2f s", own, incumbent, floor),
		})
	}
	for _, way := range []struct {
		name, title string
		goal        goal
	}{{"inspected second", "gateway", warm}, {"passthrough second", "passthrough", goal{}}} {
		if times[way.name] == nil {
			continue // not asked for
		}
		own := times[way.name].median()
		rows = append(rows, row{
			Name: "ssh true, second within a minute: " + way.title + " ÷ plain", Value: own / floor, Goal: way.goal,
			Detail: fmt.Sprintf("%.2f s, plain %.2f s", own, floor),
		})
	}
	return rows
}

// clientRoutes are the ways that need no gateway.
func (w *world) clientRoutes() (plain, plugin, connect *route, err error) {
	if plain, err = w.plainRoute(); err == nil {
		if plugin, err = w.pluginRoute(); err == nil {
			connect, err = w.connectRoute()
		}
	}
	return plain, plugin, connect, err
}
