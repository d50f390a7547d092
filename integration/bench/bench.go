package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// measure is one thing to measure, in each of its conditions. It gives rows; a failure makes a row too, and the rest goes on.
type measure struct {
	name       string
	conditions []condition
	aside      bool                                                         // has no goal: -quick leaves it out unless it is asked for by name
	run        func(ctx context.Context, b *bench, w *world) ([]row, error) // w is nil in the condition local
}

// Both conditions, and neither.
var (
	both    = []condition{awsLike, free}
	nowhere = []condition{local}
)

// measures in the order in which they run within a condition. A further measure, or a further number of lanes (laneVariants), is a line.
var measures = []measure{
	{name: "codec", conditions: nowhere, run: measureCodec},
	{name: "websocket", conditions: nowhere, run: measureWebSocket},
	{name: "login", conditions: both, run: measureLogin},
	{name: "transfer", conditions: both, run: measureTransfer},
	{name: "payload", conditions: []condition{awsLike}, aside: true, run: measurePayload},
	{name: "keystroke", conditions: both, run: measureKeystroke},
	{name: "narrow", conditions: []condition{free}, aside: true, run: measureNarrow},
	{name: "files", conditions: both, run: measureFiles},
	{name: "parallel", conditions: []condition{awsLike}, aside: true, run: measureParallel},
	{name: "idle", conditions: []condition{free}, run: measureIdle},
	{name: "crowd", conditions: []condition{free}, run: measureCrowd},
}

// measureLimit bounds one measure. The longest by far is that of many small files: AWS's plugin needs five minutes for 2,000 of them.
const measureLimit = time.Hour

// bench is one run.
type bench struct {
	plan
	programs programs
	dir      string
	started  time.Time
	rows     []row
	lanes    []lanePoint // throughput by number of lanes
	kind     string      // of login service on the instance
}

func newBench(ctx context.Context, p plan) (*bench, error) {
	b := &bench{plan: p, started: time.Now()}
	if p.listOnly {
		return b, nil
	}
	var err error
	if p.profiles != "" {
		if err = errors.Join(os.MkdirAll(p.profiles, 0o755), os.Setenv(profileEnv, p.profiles)); err != nil {
			return nil, err
		}
	}
	// Short, because the names of unix sockets below it may not be long.
	if b.dir, err = os.MkdirTemp("", "bench"); err != nil {
		return nil, err
	}
	if b.programs, err = findPrograms(ctx, b.dir, p); err != nil {
		return nil, errors.Join(err, b.close())
	}
	return b, nil
}

func (b *bench) close() error {
	if b.dir == "" {
		return nil
	}
	return os.RemoveAll(b.dir)
}

// run goes through the conditions, one world after the other, because two would compete for the machine.
func (b *bench) run(ctx context.Context) error {
	var errs []error
	for _, c := range []condition{local, awsLike, free} {
		wanted := b.wanted(c)
		if b.listOnly {
			for _, m := range wanted {
				fmt.Println(m.name, c.name)
			}
			continue
		}
		if len(wanted) > 0 {
			errs = append(errs, b.runCondition(ctx, c, wanted))
		}
	}
	return errors.Join(errs...)
}

func (b *bench) wanted(c condition) []measure {
	var wanted []measure
	for _, m := range measures {
		if m.aside && b.quick && b.only.String() == "" {
			continue
		}
		for _, at := range m.conditions {
			if at.name == c.name && b.only.MatchString(m.name+" "+c.name) {
				wanted = append(wanted, m)
			}
		}
	}
	return wanted
}

func (b *bench) runCondition(ctx context.Context, c condition, wanted []measure) (err error) {
	var w *world
	if c.name != local.name {
		if w, err = startWorld(ctx, b, c); err != nil {
			return fmt.Errorf("the world %q: %w", c.name, err)
		}
		b.kind = string(w.lab.Main.Kind)
		defer func() { err = errors.Join(err, w.close()) }()
	}
	var errs []error
	for _, m := range wanted {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		errs = append(errs, b.runMeasure(ctx, m, c, w))
	}
	return errors.Join(errs...)
}

func (b *bench) runMeasure(ctx context.Context, m measure, c condition, w *world) error {
	limited, cancel := context.WithTimeout(ctx, measureLimit)
	defer cancel()
	began := time.Now()
	rows, err := m.run(limited, b, w)
	for i := range rows {
		rows[i].Condition = c.name
		fmt.Println(rows[i].line())
	}
	b.rows = append(b.rows, rows...)
	if err != nil {
		err = fmt.Errorf("%s %s: %w", m.name, c.name, err)
		fmt.Println(row{Name: m.name, Condition: c.name, Err: err}.line())
		b.rows = append(b.rows, row{Name: m.name, Condition: c.name, Err: err})
	}
	fmt.Fprintf(os.Stderr, "bench: %s %s took %s\n", m.name, c.name, time.Since(began).Round(time.Second))
	return err
}

// programs are the files that are run.
type programs struct {
	gateway string // ours
	plugin  string // AWS's session-manager-plugin
	aws     string // the AWS command line
	root    string // of the module
}

// moduleRoot is the directory above from which go.mod is to be seen.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if filepath.Dir(dir) == dir {
			return "", errors.New("run it inside the module: go run ./integration/bench")
		}
		dir = filepath.Dir(dir)
	}
}
