package main

import (
	"math"
	"slices"
	"time"
)

// samples are the results of the rounds of one measurement, in seconds or any other unit.
type samples []float64

func (s *samples) add(d time.Duration) { *s = append(*s, d.Seconds()) }

// median is the middle of the samples, or of the two in the middle their mean; NaN without any.
func (s samples) median() float64 { return s.quantile(0.5) }

// quantile gives the value below which the share q of the samples lies, between two of them in proportion (the method "linear", R-7); NaN without any.
func (s samples) quantile(q float64) float64 {
	if len(s) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(s))
	at := q * float64(len(sorted)-1)
	below := int(at)
	if below+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[below] + (at-float64(below))*(sorted[below+1]-sorted[below])
}
