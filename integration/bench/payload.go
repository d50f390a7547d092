package main

import (
	"context"
	"fmt"
)

// measurePayload shows how an upload over one lane grows with the size of its messages, and what is left of that when the size has to be discovered.
func measurePayload(ctx context.Context, b *bench, w *world) ([]row, error) {
	largest := discovered.discover
	variants := []variant{{name: "payload1k", lanes: 1, maxPayload: 1 << 10}}
	for size := 2 << 10; size <= largest; size *= 2 {
		variants = append(variants, variant{name: fmt.Sprintf("payload%dk", size>>10), lanes: 1, maxPayload: size})
	}
	variants = append(variants, discovered)
	var rows []row
	var usual float64
	for _, v := range variants {
		rate, err := w.uploadRate(ctx, v, max(v.maxPayload, v.discover)*b.slow/1024)
		if err != nil {
			return rows, fmt.Errorf("%s: %w", v.name, err)
		}
		if usual == 0 {
			usual = rate
			continue
		}
		name := fmt.Sprintf("scp up, 1 lane, payload %d ÷ 1024", v.maxPayload)
		if v.discover > 0 {
			name = fmt.Sprintf("scp up, 1 lane, payload discovered up to %d ÷ 1024", v.discover)
		}
		rows = append(rows, row{Name: name, Value: rate / usual, Detail: fmt.Sprintf("%s MiB/s, with 1024 %s", number(rate), number(usual))})
	}
	return rows, nil
}

// uploadRate gives MiB per second of one copy of that many MiB through a gateway of its own.
func (w *world) uploadRate(ctx context.Context, v variant, size int) (float64, error) {
	r, err := w.gatewayRoute(ctx, v)
	if err != nil {
		return 0, err
	}
	m, err := r.open(ctx)
	if err != nil {
		return 0, r.explain(err)
	}
	defer m.close()
	file := fmt.Sprintf("%s/random-%d", w.bench.dir, size)
	if err := randomFile(file, size*mebibyte); err != nil {
		return 0, err
	}
	took, err := timed(m.scp(ctx, file, "machine:up-"+v.name))
	if err != nil {
		return 0, r.explain(err)
	}
	return float64(size) / took.Seconds(), nil
}
