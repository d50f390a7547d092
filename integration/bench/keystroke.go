package main

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"sync/atomic"
	"time"
)

const (
	keyPause  = 20 * time.Millisecond // between two keys, unless an echo takes longer: fast typing, and no load of its own
	fewestKey = 3                     // of a way on which one takes seconds
	warmUp    = 20                    // keys before the first that counts: programs have just started, and queues have their first sizes
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
	rows, err := echoRows(ctx, b, gateway, "gateway", busy)
	if err != nil {
		return rows, fmt.Errorf("gateway: %w", err)
	}
	// The others carry both on one session. On a small machine a transfer costs the keystroke something on any way.
	for _, other := range []*route{plain, connect, plugin} {
		if !slices.Contains(b.typists[w.name], other.name) {
			continue
		}
		more, err := echoRows(ctx, b, other, other.name, goal{})
		rows = append(rows, more...)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", other.name, err)
		}
	}
	return rows, nil
}

// measureNarrow does the same where the client's own line is what limits a transfer: everything in front of an echo waits for that line.
func measureNarrow(ctx context.Context, b *bench, w *world) (rows []row, err error) {
	gateway, err := w.gatewayRoute(ctx, narrow)
	if err != nil {
		return nil, err
	}
	plain, err := w.plainNarrowRoute()
	if err != nil {
		return nil, err
	}
	for _, way := range []struct {
		*route
		title string
	}{{gateway, "gateway"}, {plain, plainName}} {
		more, err := echoRows(ctx, b, way.route, way.title+", client behind 16 Mbit/s", goal{})
		if rows = append(rows, more...); err != nil {
			return rows, fmt.Errorf("%s: %w", way.title, way.explain(err))
		}
	}
	return rows, nil
}

func echoRows(ctx context.Context, b *bench, r *route, title string, busy goal) ([]row, error) {
	m, err := r.open(ctx)
	if err != nil {
		return nil, err
	}
	defer m.close()
	keys, err := m.keyboard(ctx)
	if err != nil {
		return nil, err
	}
	defer keys.close()
	for range warmUp {
		if _, err := keys.press(); err != nil {
			return nil, err
		}
	}
	alone, err := keys.typeFor(ctx, b.keys)
	if err != nil {
		return nil, err
	}
	rows := []row{{
		Name: "keystroke echo, idle, p99: " + title, Value: alone.quantile(0.99) * 1e3, Unit: "ms",
		Detail: fmt.Sprintf("p50 %s ms, %d keys", number(alone.median()*1e3), len(alone)),
	}}
	for _, direction := range []string{"down", "up"} {
		beside, rate, err := m.beside(ctx, direction, func() (samples, error) { return keys.typeFor(ctx, b.keys) })
		if err != nil {
			return rows, fmt.Errorf("beside a transfer %s: %w", direction, err)
		}
		rows = append(rows, row{
			Name: "keystroke echo p99 beside bulk " + direction + " ÷ idle: " + title, Value: beside.quantile(0.99) / alone.quantile(0.99), Goal: busy,
			Detail: fmt.Sprintf("p50 %s, p99 %s ms, %d keys, beside %s MiB/s", number(beside.median()*1e3), number(beside.quantile(0.99)*1e3), len(beside), number(rate)),
		})
	}
	return rows, nil
}

// keyboard is a program on a terminal of the machine that sends back what it gets.
type keyboard struct {
	in  io.WriteCloser
	out io.Reader
	cmd *exec.Cmd
	end context.CancelFunc
}

func (m *master) keyboard(ctx context.Context) (k *keyboard, err error) {
	ctx, end := context.WithCancel(ctx)
	defer func() {
		if err != nil {
			end()
		}
	}()
	k = &keyboard{cmd: m.terminal(ctx, "stty raw -echo; printf .; cat"), end: end}
	k.cmd.WaitDelay = time.Second
	if k.in, err = k.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	if k.out, err = k.cmd.StdoutPipe(); err != nil {
		return nil, err
	}
	if err := k.cmd.Start(); err != nil {
		return nil, err
	}
	if _, err := io.ReadFull(k.out, make([]byte, 1)); err != nil { // the terminal echoes no more by itself
		return nil, err
	}
	_, err = k.press() // and the program reads
	return k, err
}

func (k *keyboard) close() {
	k.end() // a raw terminal knows no end of input
	_ = k.cmd.Wait()
}

// press sends a byte and waits for it.
func (k *keyboard) press() (time.Duration, error) {
	key := []byte("k")
	began := time.Now()
	if _, err := k.in.Write(key); err != nil {
		return 0, err
	}
	_, err := io.ReadFull(k.out, key)
	return time.Since(began), err
}

// typeFor presses keys for a while, and a few even if that takes longer.
func (k *keyboard) typeFor(ctx context.Context, d time.Duration) (samples, error) {
	var echoes samples
	pause := time.NewTicker(keyPause)
	defer pause.Stop()
	for began := time.Now(); time.Since(began) < d || len(echoes) < fewestKey; {
		echo, err := k.press()
		if err != nil {
			return echoes, err
		}
		echoes.add(echo)
		select {
		case <-pause.C:
		case <-ctx.Done():
			return echoes, ctx.Err()
		}
	}
	return echoes, nil
}

// bulkPause lets a transfer fill the queues before the first key, and get a lane of its own where that takes some round trips and StartSession.
func (c condition) bulkPause() time.Duration { return time.Second + c.start + 20*c.rtt }

// beside does something while a transfer without end goes on, and tells in MiB per second how fast that was meanwhile.
func (m *master) beside(ctx context.Context, direction string, do func() (samples, error)) (result samples, rate float64, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	command := "cat /dev/zero"
	if direction == "up" {
		command = "cat >/dev/null"
	}
	bulk, carried := m.ssh(ctx, command), &endless{}
	if direction == "up" {
		bulk.Stdin = carried
	} else {
		bulk.Stdout = carried
	}
	bulk.WaitDelay = time.Second
	if err := bulk.Start(); err != nil {
		return nil, 0, err
	}
	select {
	case <-time.After(m.route.world.bulkPause()):
	case <-ctx.Done():
	}
	before, began := carried.bytes.Load(), time.Now()
	result, err = do()
	rate = float64(carried.bytes.Load()-before) / mebibyte / time.Since(began).Seconds()
	stop()
	_ = bulk.Wait() // it was ended by force
	return result, rate, err
}

// endless is a file without end that takes everything, and counts. It is no *os.File, so that the bytes pass through this program and end with it.
type endless struct{ bytes atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.bytes.Add(int64(len(p)))
	return len(p), nil
}

func (e *endless) Write(p []byte) (int, error) { return e.Read(p) }
