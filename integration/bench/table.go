package main

import (
	"fmt"
	"math"
	"strings"
)

// row is one line of the table.
type row struct {
	Name      string
	Condition string
	Value     float64 // NaN when it could not be computed
	Unit      string  // "" for a ratio
	Goal      goal
	Detail    string // the figures behind the ratio
	Err       error  // then there is no value
}

// goal is what a value is to reach. The zero value is none.
type goal struct {
	kind  goalKind
	bound float64
}

type goalKind int

const (
	noGoal goalKind = iota
	lowerBound
	upperBound
)

func atLeast(bound float64) goal { return goal{lowerBound, bound} }
func atMost(bound float64) goal  { return goal{upperBound, bound} }

func (g goal) String() string {
	switch g.kind {
	case noGoal:
		return "-"
	case lowerBound:
		return "≥" + number(g.bound)
	default:
		return "≤" + number(g.bound)
	}
}

// met compares; a value that is not a number meets nothing.
func (g goal) met(value float64) bool {
	if g.kind == lowerBound {
		return value >= g.bound
	}
	return value <= g.bound
}

// verdict is "ok", "short", "-" without a goal, or "failed".
func (r row) verdict() string {
	switch {
	case r.Err != nil || math.IsNaN(r.Value):
		return "failed"
	case r.Goal.kind == noGoal:
		return "-"
	case r.Goal.met(r.Value):
		return "ok"
	default:
		return "short"
	}
}

func (r row) value() string {
	if r.Err != nil || math.IsNaN(r.Value) {
		return "?"
	}
	return strings.TrimSpace(number(r.Value) + " " + r.Unit)
}

// line is a row for the terminal and for tools: name, condition, ratio, goal, verdict, and in parentheses the figures behind it.
func (r row) line() string {
	detail := r.Detail
	if r.Err != nil {
		detail = strings.ReplaceAll(r.Err.Error(), "\n", "; ")
	}
	if detail != "" {
		detail = "  (" + detail + ")"
	}
	return fmt.Sprintf("%-52s %-9s %9s %6s %-6s%s", r.Name, r.Condition, r.value(), r.Goal, r.verdict(), detail)
}

// number writes three significant digits, and whole numbers above that as they are.
func number(v float64) string {
	switch size := math.Abs(v); {
	case size >= 100 || v == math.Trunc(v):
		return fmt.Sprintf("%.0f", v)
	case size >= 10:
		return fmt.Sprintf("%.1f", v)
	case size >= 1:
		return fmt.Sprintf("%.2f", v)
	default:
		return fmt.Sprintf("%.3g", v)
	}
}
