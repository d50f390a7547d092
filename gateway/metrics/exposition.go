package metrics

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"net/http"
	"runtime"
	rtmetrics "runtime/metrics"
	"slices"
	"strconv"
	"strings"
)

// contentType is that of the exposition format, whose specification is https://prometheus.io/docs/instrumenting/exposition_formats/.
const contentType = "text/plain; version=0.0.4; charset=utf-8"

// heapObjects is the sample of runtime/metrics for what Prometheus calls go_memstats_heap_alloc_bytes.
const heapObjects = "/memory/classes/heap/objects:bytes"

// ServeHTTP answers a scrape.
func (m *Metrics) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", contentType)
	_, _ = w.Write(m.text())
}

// text is everything at this moment, in the order of the names.
func (m *Metrics) text() []byte {
	samples := m.collect()
	var b bytes.Buffer
	for _, name := range slices.Sorted(maps.Keys(families)) {
		f := families[name]
		write(&b, prefix+name, &f, samples[name])
	}
	for _, name := range slices.Sorted(maps.Keys(shared)) {
		f := shared[name]
		write(&b, name, &f, samples[name])
	}
	return b.Bytes()
}

// write gives one family. One without samples is still announced, so that a dashboard knows it.
func write(w io.Writer, name string, f *family, samples map[string]float64) {
	_, _ = fmt.Fprintf(w, "# HELP %s %s\n# TYPE %s %s\n", name, f.help, name, f.kind)
	if len(samples) == 0 && len(f.labels) == 0 {
		samples = map[string]float64{"": 0}
	}
	for _, labels := range slices.Sorted(maps.Keys(samples)) {
		_, _ = fmt.Fprintf(w, "%s%s %s\n", name, labels, strconv.FormatFloat(samples[labels], 'g', -1, 64))
	}
}

// collect gathers the samples: by name without prefix, then by labels as they are written.
func (m *Metrics) collect() map[string]map[string]float64 {
	samples := map[string]map[string]float64{}
	tell := func(name string, value float64, values ...string) {
		if samples[name] == nil {
			samples[name] = map[string]float64{}
		}
		samples[name][labels(families[name].labels, values)] = value
	}
	m.lanes.collect(tell)
	m.mu.Lock()
	for name, counts := range m.counts {
		samples[name] = maps.Clone(counts)
	}
	load := m.load
	m.mu.Unlock()
	if load != nil {
		now := load()
		tell("connections_dropped_total", float64(now.Dropped))
		tell("connections_unauthenticated", float64(now.Startups))
		tell("connections_active", float64(now.Connections))
		tell("machines_active", float64(now.Stays))
		if now.Draining {
			tell("draining", 1)
		}
	}
	tell("build_info", 1, m.version, runtime.Version())
	heap := []rtmetrics.Sample{{Name: heapObjects}}
	rtmetrics.Read(heap)
	tell("go_memstats_heap_alloc_bytes", float64(heap[0].Value.Uint64()))
	tell("go_goroutines", float64(runtime.NumGoroutine()))
	return samples
}

var escapeLabel = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

// labels writes names and values as a sample has them; nothing for none.
func labels(names, values []string) string {
	if len(names) == 0 {
		return ""
	}
	pairs := make([]string, len(names))
	for i, name := range names {
		pairs[i] = name + `="` + escapeLabel.Replace(values[i]) + `"`
	}
	return "{" + strings.Join(pairs, ",") + "}"
}
