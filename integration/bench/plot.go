package main

import (
	"fmt"
	"io"
	"slices"
	"strings"
)

// lanePoint is the throughput of a gateway with that many lanes, in MiB/s.
type lanePoint struct {
	condition string
	lanes     int
	down, up  float64
}

// Sizes of the plot, in user units.
const (
	plotWidth, plotHeight = 640, 360
	plotMargin            = 56
)

// plottable says whether there is anything to see: a curve needs two points.
func plottable(points []lanePoint) bool {
	counts := map[int]bool{}
	for _, p := range points {
		counts[p.lanes] = true
	}
	return len(counts) > 1
}

// writePlot draws throughput against lanes as SVG, one line for each condition and direction.
func writePlot(w io.Writer, points []lanePoint) error {
	most, top := 0, 0.0
	for _, p := range points {
		most, top = max(most, p.lanes), max(top, p.down, p.up)
	}
	x := func(lanes int) float64 { return plotMargin + float64(lanes)/float64(most)*(plotWidth-2*plotMargin) }
	y := func(rate float64) float64 { return plotHeight - plotMargin - rate/top*(plotHeight-2*plotMargin) }
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" font-family="sans-serif" font-size="12">`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<rect width="%d" height="%d" fill="white"/>`+"\n", plotWidth, plotHeight)
	fmt.Fprintf(&b, `<path d="M%d %dV%dH%d" fill="none" stroke="black"/>`+"\n", plotMargin, plotMargin, plotHeight-plotMargin, plotWidth-plotMargin)
	fmt.Fprintf(&b, `<text x="%d" y="%d" text-anchor="middle">lanes</text>`+"\n", plotWidth/2, plotHeight-plotMargin/4)
	fmt.Fprintf(&b, `<text x="%d" y="%d">MiB/s</text>`+"\n", plotMargin/4, plotMargin/2)
	for quarter := range 5 {
		rate := top * float64(quarter) / 4
		fmt.Fprintf(&b, `<text x="%d" y="%.0f" text-anchor="end">%s</text>`+"\n", plotMargin-6, y(rate)+4, number(rate))
	}
	lines := plotLines(points)
	var lanes []int
	for n, line := range lines {
		color := []string{"#0b62a4", "#d1495b", "#2e8b57", "#8a5a00"}[n%4]
		var path []string
		for _, at := range line.points {
			path = append(path, fmt.Sprintf("%.1f,%.1f", x(at.lanes), y(at.rate)))
			lanes = append(lanes, at.lanes)
		}
		fmt.Fprintf(&b, `<polyline points="%s" fill="none" stroke="%s" stroke-width="2"/>`+"\n", strings.Join(path, " "), color)
		fmt.Fprintf(&b, `<text x="%d" y="%d" fill="%s">%s</text>`+"\n", plotMargin+12, plotMargin+16*n, color, line.name)
	}
	slices.Sort(lanes)
	for _, n := range slices.Compact(lanes) {
		fmt.Fprintf(&b, `<text x="%.0f" y="%d" text-anchor="middle">%d</text>`+"\n", x(n), plotHeight-plotMargin+16, n)
	}
	b.WriteString("</svg>\n")
	_, err := io.WriteString(w, b.String())
	return err
}

// plotLine is one curve, points in the order of their lanes.
type plotLine struct {
	name   string
	points []struct {
		lanes int
		rate  float64
	}
}

func plotLines(points []lanePoint) []plotLine {
	points = slices.Clone(points)
	slices.SortStableFunc(points, func(a, b lanePoint) int { return a.lanes - b.lanes })
	var lines []plotLine
	add := func(name string, lanes int, rate float64) {
		at := slices.IndexFunc(lines, func(l plotLine) bool { return l.name == name })
		if at < 0 {
			at, lines = len(lines), append(lines, plotLine{name: name})
		}
		lines[at].points = append(lines[at].points, struct {
			lanes int
			rate  float64
		}{lanes, rate})
	}
	for _, p := range points {
		add(p.condition+", down", p.lanes, p.down)
		add(p.condition+", up", p.lanes, p.up)
	}
	return lines
}
