package main

import (
	"context"
	"io"
	"os/exec"
	"sync/atomic"
	"time"
)

const (
	keyPause  = 20 * time.Millisecond // between two keys, unless an echo takes longer: fast typing, and no load of its own
	fewestKey = 3                     // of a way on which one takes seconds
	warmUp    = 20                    // keys before the first that counts: programs have just started, and queues have their first sizes
)

// keyboard is a program on a terminal of the machine that sends back what it gets.
type keyboard struct {
	in  io.WriteCloser
	out io.Reader
	cmd *exec.Cmd
	end context.CancelFunc
}

// keyboard starts one, and presses keys until everything on their way has its usual size.
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
	for range warmUp {
		if _, err := k.press(); err != nil {
			return nil, err
		}
	}
	return k, nil
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
func (m *master) beside(ctx context.Context, direction string, do func() error) (rate float64, err error) {
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
		return 0, err
	}
	select {
	case <-time.After(m.route.world.bulkPause()):
	case <-ctx.Done():
	}
	before, began := carried.bytes.Load(), time.Now()
	err = do()
	rate = float64(carried.bytes.Load()-before) / mebibyte / time.Since(began).Seconds()
	stop()
	_ = bulk.Wait() // it was ended by force
	return rate, err
}

// endless is a file without end that takes everything, and counts. It is no *os.File, so that the bytes pass through this program and end with it.
type endless struct{ bytes atomic.Int64 }

func (e *endless) Read(p []byte) (int, error) {
	e.bytes.Add(int64(len(p)))
	return len(p), nil
}

func (e *endless) Write(p []byte) (int, error) { return e.Read(p) }
