package agent

import (
	"bytes"
	"strings"
	"sync"
)

// splitWords cuts a command line into words as a POSIX shell quotes them, without any expansion.
func splitWords(line string) ([]string, error) {
	var words []string
	var word strings.Builder
	var quote rune
	inWord, escaped := false, false
	for _, r := range line {
		switch {
		case escaped:
			if quote == '"' && !strings.ContainsRune("\"\\$`\n", r) {
				word.WriteRune('\\')
			}
			word.WriteRune(r)
			escaped = false
		case r == '\\' && quote != '\'':
			escaped, inWord = true, true
		case quote != 0:
			if r == quote {
				quote = 0
			} else {
				word.WriteRune(r)
			}
		case r == '\'' || r == '"':
			quote, inWord = r, true
		case strings.ContainsRune(" \t\r\n", r):
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		default:
			word.WriteRune(r)
			inWord = true
		}
	}
	if quote != 0 || escaped {
		return nil, errBadQuotes
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// lineMarker puts a prefix at the start of every line.
type lineMarker struct {
	prefix  []byte
	atStart bool
}

func (l *lineMarker) mark(text []byte) []byte {
	if len(l.prefix) == 0 {
		return text
	}
	var marked []byte
	for line := range bytes.Lines(text) {
		if l.atStart {
			marked = append(marked, l.prefix...)
		}
		marked = append(marked, line...)
		l.atStart = bytes.HasSuffix(line, []byte("\n"))
	}
	return marked
}

// limitedBuffer keeps what a command writes, up to a limit; what is beyond is discarded and reported.
type limitedBuffer struct {
	mu   sync.Mutex
	data bytes.Buffer
	over bool
}

// Write never fails, so that the command can end.
func (b *limitedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	room := maxCombined - b.data.Len()
	b.over = b.over || len(p) > room
	b.data.Write(p[:min(len(p), room)])
	return len(p), nil
}

func (b *limitedBuffer) bytes() []byte {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.data.Bytes()
}

func (b *limitedBuffer) err() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.over {
		return errTooMuch
	}
	return nil
}
