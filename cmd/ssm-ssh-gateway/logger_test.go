package main

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"
)

func TestNoPeerMakesALogLineLong(t *testing.T) {
	long := strings.Repeat("x", 256<<10)
	for _, format := range []string{"text", "json"} {
		for name, value := range map[string]any{
			"text": long, "error": errors.New(long), "wrapped": fmt.Errorf("no login: %w", errors.New(long)),
			"group": slog.GroupValue(slog.String("within", long)),
		} {
			var out bytes.Buffer
			newLogger(&loadedConfig{fileConfig: fileConfig{LogFormat: format}}, &out).Info("refused", "value", value, "ref", "7f3a9c")
			if got := out.String(); len(got) > longestValue+200 || !strings.Contains(got, "xxx…") || !strings.Contains(got, "7f3a9c") {
				t.Errorf("%s of %s: %d bytes, ends with %q", format, name, len(got), got[max(0, len(got)-40):])
			}
		}
		var out bytes.Buffer
		log := newLogger(&loadedConfig{fileConfig: fileConfig{LogFormat: format}}, &out)
		log.Info("short", "n", 42, "error", errors.New("why"), "none", nil, "stack", strings.Repeat("y", longestValue+1))
		if got := out.String(); !strings.Contains(got, "42") || !strings.Contains(got, "why") || strings.Contains(got, "…") {
			t.Errorf("%s: %q", format, got)
		}
	}
}
