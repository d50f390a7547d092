package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
)

// weighed is a gateway that collects garbage all the time and says each time how much is alive: the figures of GODEBUG=gctrace=1 (package runtime).
var weighed = variant{name: "weighed", environ: []string{"GODEBUG=gctrace=1", "GOGC=5"}}

// loginsAtOnce bounds the logins that go on at the same time while sessions are opened to be left idle.
const loginsAtOnce = 4

// measureIdle opens sessions, leaves them alone, and divides what the gateway's heap has grown by.
func measureIdle(ctx context.Context, b *bench, w *world) ([]row, error) {
	g, err := w.freshGateway(ctx, weighed)
	if err != nil {
		return nil, err
	}
	j, err := w.jumpClient(g)
	if err != nil {
		return nil, err
	}
	if err := j.runTrue(ctx); err != nil { // whatever is made once is made now
		return nil, err
	}
	heapBefore, err := g.liveHeap(ctx, j)
	if err != nil {
		return nil, err
	}
	rssBefore, rssErr := residentSet(g.cmd.Process.Pid)
	logins, err := j.open(ctx, b.idle)
	defer func() {
		for _, l := range logins {
			_ = l.Close()
		}
	}()
	if err != nil {
		return nil, err
	}
	heapAfter, err := g.liveHeap(ctx, j)
	if err != nil {
		return nil, err
	}
	rows := []row{{
		Name: fmt.Sprintf("heap per idle session, %d open", b.idle), Value: (heapAfter - heapBefore) * 1024 / float64(b.idle), Unit: "KiB", Goal: atMost(160),
		Detail: fmt.Sprintf("live heap %.0f → %.0f MiB", heapBefore, heapAfter),
	}}
	rssAfter, err := residentSet(g.cmd.Process.Pid)
	if err := errors.Join(rssErr, err); err != nil {
		return append(rows, row{Name: "resident memory per idle session", Err: err}), nil
	}
	rows = append(rows, row{
		Name: "resident memory per idle session", Value: float64(rssAfter-rssBefore) / float64(b.idle) / 1024, Unit: "KiB",
		Detail: fmt.Sprintf("%d → %d MiB, stacks and runtime included", rssBefore/mebibyte, rssAfter/mebibyte),
	})
	used, err := g.processorTimeIn(ctx, b, b.keys)
	return append(rows, row{
		Name: "processor time per idle session and minute", Value: used.Seconds() * 1000 / float64(b.idle) / b.keys.Minutes(), Unit: "ms", Err: err,
		Detail: fmt.Sprintf("%d ms of the gateway in %s", used.Milliseconds(), b.keys),
	}), nil
}

// processorTimeIn is what the gateway uses in a time in which nobody does anything. The profile of it, where one is asked for, is called idle.
func (g *gatewayProcess) processorTimeIn(ctx context.Context, b *bench, span time.Duration) (used time.Duration, err error) {
	look := func() error {
		before, err := processorTime(g.cmd.Process.Pid)
		if err != nil {
			return err
		}
		select {
		case <-time.After(span):
		case <-ctx.Done():
			return ctx.Err()
		}
		after, err := processorTime(g.cmd.Process.Pid)
		used = after - before
		return err
	}
	if b.profiles == "" {
		err = look()
		return used, err
	}
	err = b.profiled(g.cmd.Process.Pid, "idle", look)
	return used, err
}

// open logs in n times. Each login has run a program, so that everything a session needs once is there.
func (j *jumpClient) open(ctx context.Context, n int) (logins []*login, err error) {
	var mu sync.Mutex
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(loginsAtOnce)
	for range n {
		group.Go(func() error {
			l, err := j.dial(ctx)
			if err != nil {
				return err
			}
			mu.Lock()
			logins = append(logins, l)
			mu.Unlock()
			return runTrue(l.Client)
		})
	}
	return logins, group.Wait()
}

// collection is a line of gctrace: what was alive at the end of it, in MiB, is the third of the three sizes.
var collection = regexp.MustCompile(`(?m)^gc \d+ @.* \d+->\d+->(\d+) MB,`)

// liveHeap gives MiB alive at the last of some collections, which a few logins provoke.
func (g *gatewayProcess) liveHeap(ctx context.Context, j *jumpClient) (float64, error) {
	for range 5 {
		if err := j.runTrue(ctx); err != nil {
			return 0, err
		}
	}
	text, err := os.ReadFile(g.logPath)
	if err != nil {
		return 0, err
	}
	return lastLive(string(text))
}

var errNoTrace = errors.New("the gateway has written no trace of a garbage collection")

func lastLive(trace string) (float64, error) {
	all := collection.FindAllStringSubmatch(trace, -1)
	if len(all) == 0 {
		return 0, errNoTrace
	}
	return strconv.ParseFloat(all[len(all)-1][1], 64)
}

// residentSet is VmRSS of proc_pid_status(5), in bytes.
func residentSet(pid int) (int64, error) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, errors.Join(errNoProc, err)
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if rest, found := strings.CutPrefix(lines.Text(), "VmRSS:"); found {
			kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(rest), " kB"), 10, 64)
			return kib * 1024, err
		}
	}
	return 0, errNoProc
}
