package main

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"io"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestQuantiles(t *testing.T) {
	for _, c := range []struct {
		samples samples
		q, want float64
	}{
		{samples{3, 1, 2}, 0.5, 2},
		{samples{4, 1, 2, 3}, 0.5, 2.5},
		{samples{7}, 0.99, 7},
		{samples{1, 2}, 1, 2},
		{samples{1, 2, 3, 4, 5}, 0, 1},
		{samples{0, 10, 20, 30, 40}, 0.9, 36}, // between the fourth and the fifth
	} {
		before := slices.Clone(c.samples)
		if got := c.samples.quantile(c.q); math.Abs(got-c.want) > 1e-9 {
			t.Errorf("quantile %v of %v is %v, want %v", c.q, c.samples, got, c.want)
		}
		if !slices.Equal(before, c.samples) {
			t.Errorf("quantile has sorted its samples: %v", c.samples)
		}
	}
	if got := (samples{}).median(); !math.IsNaN(got) {
		t.Errorf("the median of nothing is %v", got)
	}
}

func TestVerdicts(t *testing.T) {
	for _, c := range []struct {
		row  row
		want string
	}{
		{row{Value: 7, Goal: atLeast(7)}, "ok"},
		{row{Value: 6.9, Goal: atLeast(7)}, "short"},
		{row{Value: 0, Goal: atMost(0)}, "ok"},
		{row{Value: 1, Goal: atMost(0)}, "short"},
		{row{Value: 1}, "-"},
		{row{Value: math.NaN()}, "failed"},
		{row{Value: math.NaN(), Goal: atMost(1)}, "failed"},
		{row{Value: 9, Goal: atLeast(7), Err: errors.New("no")}, "failed"},
	} {
		if got := c.row.verdict(); got != c.want {
			t.Errorf("%+v: %s, want %s", c.row, got, c.want)
		}
	}
}

// What tools read: five fields in this order, and the figures in parentheses.
func TestLine(t *testing.T) {
	got := strings.Fields(row{Name: "scp", Condition: "free", Value: 23.82, Goal: atLeast(25), Detail: "16.1 MiB/s"}.line())
	if diff := cmp.Diff([]string{"scp", "free", "23.8", "≥25", "short", "(16.1", "MiB/s)"}, got); diff != "" {
		t.Errorf("line (-want +got):\n%s", diff)
	}
	failed := row{Name: "scp", Condition: "free", Goal: atLeast(25), Err: errors.New("broken\npipe")}.line()
	if strings.Contains(failed, "\n") || !strings.Contains(failed, "failed") || !strings.Contains(failed, "broken; pipe") {
		t.Errorf("a failure is written as %q", failed)
	}
}

func TestNumber(t *testing.T) {
	for v, want := range map[float64]string{0: "0", 0.0861: "0.0861", 0.5: "0.5", 1.8149: "1.81", 23.82: "23.8", 2877.4: "2877", 160: "160", -0.024: "-0.024"} {
		if got := number(v); got != want {
			t.Errorf("%v is written as %q, want %q", v, got, want)
		}
	}
}

// The cold start is compared above the floor; the second is compared with the floor.
func TestLoginRows(t *testing.T) {
	times := map[string]*samples{
		"plain ssh": {0.5, 0.4, 0.6}, "CLI + plugin": {1.5}, "connect": {1}, "inspected cold": {0.9}, "inspected second": {0.75},
		"passthrough cold": {1}, "passthrough second": {1},
	}
	rows := loginRows(awsLike, times)
	want := []float64{0.4, 0.5, 0.5, 1.5, 2}
	for i, r := range rows {
		if math.Abs(r.Value-want[i]) > 1e-9 {
			t.Errorf("%s is %v, want %v", r.Name, r.Value, want[i])
		}
	}
	if len(rows) != len(want) || rows[0].Goal != atMost(0.5) || loginRows(free, times)[0].Goal != atMost(0.25) {
		t.Errorf("rows or goals differ: %+v", rows)
	}
}

func TestTransferRows(t *testing.T) {
	results := map[string]*flows{}
	for name, rate := range map[string]float64{"plain ssh": 60, "CLI + plugin": 0.5, "connect": 1, inspected16.name: 30, passthrough.name: 2} {
		results[name] = &flows{down: flow{rate: samples{rate}, cost: samples{0.2}}, up: flow{rate: samples{rate}, cost: samples{0.2}}}
	}
	for _, v := range laneVariants {
		results[v.name] = &flows{down: flow{rate: samples{float64(v.lanes) / 2}, cost: samples{0.2}}, up: flow{rate: samples{float64(v.lanes) / 2}, cost: samples{0.2}}}
	}
	results["plain ssh"].down.cost = nil // nobody in the middle
	rows := transferRows(awsLike, results)
	find := func(name string) row {
		at := slices.IndexFunc(rows, func(r row) bool { return r.Name == name })
		if at < 0 {
			t.Fatalf("no row %q", name)
		}
		return rows[at]
	}
	if r := find("scp down: gateway, 1 lane ÷ plugin"); r.Value != 1 || r.verdict() != "-" {
		t.Errorf("%+v", r)
	}
	if r := find("scp down: gateway, 8 lanes ÷ plugin"); r.Value != 8 || r.verdict() != "ok" {
		t.Errorf("%+v", r)
	}
	if r := find("scp up: gateway, 1 lane, 16 KiB payload ÷ plugin"); r.Value != 60 || r.Goal != atLeast(15) {
		t.Errorf("%+v", r)
	}
	if r := find("CPU per MiB up: connect ÷ plugin"); r.Value != 1 || r.verdict() != "short" {
		t.Errorf("%+v", r)
	}
	if r := costRow("x", flow{}, flow{}, goal{}); r.verdict() != "failed" || !errors.Is(r.Err, errNoCost) {
		t.Errorf("without processor times: %+v", r)
	}
	results["lanes8"].err = errDiffers
	rows = transferRows(awsLike, results)
	if r := find("scp down: gateway, 8 lanes ÷ plugin"); r.verdict() != "failed" {
		t.Errorf("a way that spoils files has a speed: %+v", r)
	}
}

// A curve needs two numbers of lanes; with them the picture is well-formed and has a line for each condition and direction.
func TestPlot(t *testing.T) {
	points := []lanePoint{{"AWS-like", 8, 5.3, 7.4}, {"AWS-like", 1, 0.7, 0.9}, {"free", 1, 36, 16}, {"free", 8, 90, 60}}
	if plottable(points[2:3]) || !plottable(points) {
		t.Error("plottable is wrong")
	}
	lines := plotLines(points)
	if len(lines) != 4 || lines[0].name != "AWS-like, down" || lines[0].points[0].lanes != 1 || lines[0].points[1].rate != 5.3 {
		t.Errorf("lines: %+v", lines)
	}
	var svg bytes.Buffer
	if err := writePlot(&svg, points); err != nil {
		t.Fatal(err)
	}
	if got := strings.Count(svg.String(), "<polyline"); got != 4 {
		t.Errorf("%d lines are drawn", got)
	}
	for d := xml.NewDecoder(&svg); ; {
		_, err := d.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatalf("the plot is not well-formed: %v", err)
		}
	}
}

func TestLiveHeapOfTrace(t *testing.T) {
	const trace = `{"msg":"listening"}
gc 1 @0.015s 2%: 0.020+0.55+0.004 ms clock, 0.041+0.17/0.33/0.10+0.009 ms cpu, 3->4->2 MB, 4 MB goal, 0 MB stacks, 0 MB globals, 2 P
gc 12 @1.015s 2%: 0.020+0.55+0.004 ms clock, 0.041+0.17/0.33/0.10+0.009 ms cpu, 33->34->29 MB, 30 MB goal, 1 MB stacks, 0 MB globals, 2 P (forced)
`
	if got, err := lastLive(trace); err != nil || got != 29 {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := lastLive("nothing"); !errors.Is(err, errNoTrace) {
		t.Errorf("without a trace: %v", err)
	}
}

// The clock of a process stands still while it sleeps, and runs while it works.
func TestProcessorTime(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("only Linux tells")
	}
	before, err := processorTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	for sum := [32]byte{}; ; sum = sha256.Sum256(sum[:]) {
		after, err := processorTime(os.Getpid())
		if err != nil || after < before {
			t.Fatalf("from %v to %v: %v", before, after, err)
		}
		if after > before {
			break
		}
	}
	if _, err := processorTime(1 << 22); err == nil { // above the largest number a process can have
		t.Error("a process that is not there has used time")
	}
	if pid, err := descendant(os.Getppid(), filepath.Base(os.Args[0])); err != nil || pid != os.Getpid() {
		t.Errorf("below %d: %d, %v", os.Getppid(), pid, err)
	}
}

func TestLimitsOfVariants(t *testing.T) {
	few := variant{lanes: 2}.limits()
	if few["max_lanes_per_connection"] != 2 || few["max_connections"] != roomy["max_connections"] {
		t.Errorf("%+v", few)
	}
	if _, set := (variant{}).limits()["max_lanes_per_connection"]; set {
		t.Error("a variant has written into the limits of all")
	}
}

// A ProxyCommand passes ssh, which replaces %, and a shell.
func TestQuote(t *testing.T) {
	for _, word := range []string{"plain", "it's", "a b", "$HOME", "100%", "%h", `back\slash`, "a;b&c"} {
		afterSSH := strings.ReplaceAll(quote(word), "%%", "%")
		got, err := exec.Command("sh", "-c", "printf %s "+afterSSH).Output()
		if err != nil || string(got) != word {
			t.Errorf("%q arrives as %q (%v)", word, got, err)
		}
	}
}

// The delay line delays; it loses nothing, mixes nothing up, and lets half-close through.
func TestDelayLine(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	served := make(chan error, 1)
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			defer conn.Close()
			_, err = io.Copy(conn, conn)
		}
		served <- err
	}()
	line, err := startDelayLine(listener.Addr().String(), 2*time.Millisecond, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTCP("tcp", nil, line.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	go func() {
		_, _ = conn.Write(sent)
		_ = conn.CloseWrite()
	}()
	if received, err := io.ReadAll(conn); err != nil || !bytes.Equal(sent, received) {
		t.Errorf("%d of %d bytes came back (%v)", len(received), len(sent), err)
	}
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := line.Close(); err != nil {
		t.Error(err)
	}
}

// Closing the line ends connections that are in the middle of something.
func TestDelayLineClose(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	line, err := startDelayLine(listener.Addr().String(), 0, 0)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := net.DialTCP("tcp", nil, line.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	far, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if _, err := conn.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(far, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := line.Close(); err != nil {
		t.Error(err)
	}
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection is still open: %v", err)
	}
}

// Both ends of the comparison carry all their bytes and end.
func TestUploads(t *testing.T) {
	for name, upload := range map[string]upload{"ssmproto": protocolUpload, "bare": bareUpload} {
		rate, err := rawRate(t.Context(), 256<<10, payloadSize, upload)
		if err != nil || !(rate > 0) {
			t.Errorf("%s: %v MiB/s, %v", name, rate, err)
		}
	}
}

func TestOurCodecIsMeasured(t *testing.T) {
	if testing.Short() {
		t.Skip("takes as long as benchmarks do")
	}
	if result := ourCodec(); !(result.ParseNs > 0 && result.AppendNs > 0) {
		t.Errorf("%+v", result)
	}
	if digest := digestAlone(); !(digest > 0) {
		t.Errorf("digest %v", digest)
	}
}

func TestCommandLine(t *testing.T) {
	p, out, err := parse([]string{"-quick", "-only", "^login free$", "-sessions", "7", "-out", "page.md"})
	if err != nil || out != "page.md" || !p.quick || p.sessions != 7 || p.logins != quickPlan.logins {
		t.Errorf("%+v, %q, %v", p, out, err)
	}
	b := &bench{plan: p}
	if got := b.wanted(free); len(got) != 1 || got[0].name != "login" {
		t.Errorf("wanted: %+v", got)
	}
	if got := b.wanted(awsLike); len(got) != 0 {
		t.Errorf("wanted: %+v", got)
	}
	if _, _, err := parse([]string{"-only", "("}); err == nil {
		t.Error("a broken expression is taken")
	}
}

// The page has every row, also those that failed, and no row breaks the table.
func TestReport(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	b := &bench{started: time.Now(), kind: "sshd", rows: []row{
		{Name: "scp", Condition: "free", Value: 2, Goal: atLeast(1), Detail: "a|b"}, {Name: "login", Condition: "free", Err: errors.New("two\nlines")},
	}, lanes: []lanePoint{{"free", 1, 1, 1}, {"free", 2, 2, 2}}}
	if err := writeReport(path, b); err != nil {
		t.Fatal(err)
	}
	page, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`| scp | free | 2 | ≥1 | ok | a\|b |`, `| login | free | ? | - | failed | two lines |`, "page-lanes.svg", "## What the rows are"} {
		if !strings.Contains(string(page), want) {
			t.Errorf("the page lacks %q", want)
		}
	}
	if _, err := os.Stat(filepath.Join(filepath.Dir(path), "page-lanes.svg")); err != nil {
		t.Error(err)
	}
}
