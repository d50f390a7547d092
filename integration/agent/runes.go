package agent

import "unicode/utf8"

// wholeRunes is the length of the longest start of b that does not end within a UTF-8 sequence. Invalid bytes count as whole.
func wholeRunes(b []byte) int {
	for back := 1; back < utf8.UTFMax && back <= len(b); back++ {
		if first := b[len(b)-back]; utf8.RuneStart(first) {
			if utf8.FullRune(b[len(b)-back:]) {
				return len(b)
			}
			return len(b) - back
		}
	}
	return len(b)
}
