package main

import "testing"

// TestReadAhead: five milliseconds of what the session carries, within bounds.
func TestReadAhead(t *testing.T) {
	for _, c := range []struct{ payload, rate, want int }{
		{0, 0, 4608}, // 900 messages of 1,024 bytes a second
		{0, 100, leastAhead},
		{2048, 900, 9216},
		{16384, 0, mostAhead},
	} {
		if got := readAhead(c.payload, c.rate); got != c.want {
			t.Errorf("readAhead(%d, %d) = %d, want %d", c.payload, c.rate, got, c.want)
		}
	}
}
