//go:build !unix

package main

import "time"

// resizeInterval is how often a terminal without a signal for it is looked at.
const resizeInterval = 500 * time.Millisecond

// resizeHints says when the terminal may have another size.
func resizeHints() (hints <-chan time.Time, stop func()) {
	ticker := time.NewTicker(resizeInterval)
	return ticker.C, ticker.Stop
}
