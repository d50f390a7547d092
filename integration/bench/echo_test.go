package main

import (
	"math"
	"strings"
	"testing"
)

// typedFor is a way that has been typed on: 200 echoes a round, of 1 ms, but for the slowest ones.
func typedFor(idle, down [][]float64) *typist {
	round := func(slow []float64) samples {
		s := samples(slow)
		for len(s) < 200 {
			s = append(s, 0.001)
		}
		return s
	}
	t := &typist{title: "gateway", goal: atMost(2), beside: map[string]*stretches{"down": {}, "up": {}}}
	for i := range idle {
		t.alone.own, t.alone.control = append(t.alone.own, round(idle[i])), append(t.alone.control, round(nil))
		s := t.beside["down"]
		s.own, s.control, s.rates = append(s.own, round(down[i])), append(s.control, round(nil)), append(s.rates, 10)
	}
	return t
}

// TestTailInEveryRound: what two keys of a hundred meet is a tail, and what they meet in one round only is the machine's.
func TestTailInEveryRound(t *testing.T) {
	slow := []float64{0.040, 0.040, 0.040, 0.040}
	for _, c := range []struct {
		name       string
		idle, down [][]float64
		want       float64
	}{
		{"none", [][]float64{nil, nil, nil}, [][]float64{nil, nil, nil}, 1},
		{"in every round", [][]float64{nil, nil, nil}, [][]float64{slow, slow, slow}, 40},
		{"in two of three", [][]float64{nil, nil, nil}, [][]float64{slow, nil, slow}, 40},
		{"in one of three", [][]float64{nil, nil, nil}, [][]float64{nil, slow, nil}, 1},
		{"in one without the transfer", [][]float64{slow, nil, nil}, [][]float64{nil, nil, nil}, 1},
		{"in one of both", [][]float64{slow, nil, nil}, [][]float64{slow, nil, nil}, 1},
	} {
		rows := typedFor(c.idle, c.down).rows()
		if len(rows) != 2 {
			t.Fatalf("%s: %d rows: a direction without a round has none", c.name, len(rows))
		}
		if got := rows[1].Value; math.Abs(got-c.want) > 1e-9 {
			t.Errorf("a tail %s: %v times the idle one, want %v", c.name, got, c.want)
		}
		if !strings.Contains(rows[1].Detail, "600 keys in 3 rounds") {
			t.Errorf("the figures are %q", rows[1].Detail)
		}
	}
}

// TestNothingTyped: a way on which nobody could type has no rows, and is no fault of the program.
func TestNothingTyped(t *testing.T) {
	way := &typist{title: "gateway", beside: map[string]*stretches{"down": {}, "up": {}}}
	if rows := way.rows(); len(rows) != 0 {
		t.Errorf("rows %+v", rows)
	}
}
