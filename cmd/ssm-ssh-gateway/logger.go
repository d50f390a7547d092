package main

import (
	"io"
	"log/slog"
	"os"

	"golang.org/x/term"
)

// longestValue bounds one value of a log line, in bytes. The SSH library's errors have in them what a stranger sent, such as the reason for a disconnect, and
// that may be 256 KiB. AWS's longest refusals fit.
const longestValue = 2 << 10

// newLogger writes what the configuration asks for. Without a word: text to a terminal, JSON to anything else.
func newLogger(cfg *loadedConfig, w io.Writer) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(cfg.LogLevel)) // checked when the configuration was; empty means info
	options := &slog.HandlerOptions{Level: level, ReplaceAttr: boundValue}
	format := cfg.LogFormat
	if file, ok := w.(*os.File); ok && format == "" && term.IsTerminal(int(file.Fd())) {
		format = "text"
	}
	if format == "text" {
		return slog.New(slog.NewTextHandler(w, options))
	}
	return slog.New(slog.NewJSONHandler(w, options))
}

// boundValue cuts texts and errors that are too long for a line. A stack is ours, and bounded where it is taken.
func boundValue(_ []string, a slog.Attr) slog.Attr {
	text := ""
	switch value := a.Value.Any().(type) {
	case string:
		text = value
	case error:
		text = value.Error()
	}
	if len(text) > longestValue && a.Key != "stack" {
		a.Value = slog.StringValue(text[:longestValue] + "…")
	}
	return a
}
