package main

import (
	"bytes"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// explanation is the part of the page that does not change with the figures: conditions, ways, and what each row is.
//
//go:embed explanation.md
var explanation string

// writeReport writes the page, and the plot beside it when there is one.
func writeReport(path string, b *bench) error {
	var page bytes.Buffer
	fmt.Fprintf(&page, "# Performance\n\nMade by `go run ./integration/bench %s` on %s, in %s. All figures of the table are from that one run.\n\n",
		strings.Join(os.Args[1:], " "), b.started.Format("2006-01-02"), minutes(b))
	page.WriteString(machineClass(b) + "\n")
	page.WriteString("| measure | condition | value | goal | | figures |\n|---|---|---:|---:|---|---|\n")
	for _, r := range b.rows {
		detail := r.Detail
		if r.Err != nil {
			detail = strings.ReplaceAll(r.Err.Error(), "\n", " ")
		}
		fmt.Fprintf(&page, "| %s | %s | %s | %s | %s | %s |\n", r.Name, r.Condition, r.value(), r.Goal, r.verdict(), strings.ReplaceAll(detail, "|", `\|`))
	}
	page.WriteString("\n")
	if plottable(b.lanes) {
		plot := strings.TrimSuffix(path, filepath.Ext(path)) + "-lanes.svg"
		var svg bytes.Buffer
		if err := writePlot(&svg, b.lanes); err != nil {
			return err
		}
		if err := os.WriteFile(plot, svg.Bytes(), 0o644); err != nil {
			return err
		}
		fmt.Fprintf(&page, "![throughput against lanes](%s)\n\n", filepath.Base(plot))
	}
	page.WriteString(explanation)
	return os.WriteFile(path, page.Bytes(), 0o644)
}

func minutes(b *bench) string {
	return fmt.Sprintf("%.0f minutes", time.Since(b.started).Minutes())
}

// machineClass says on what the figures were taken, and how busy it was: ratios travel, seconds do not.
func machineClass(b *bench) string {
	lines := []string{fmt.Sprintf("- machine: %s/%s, %d processors%s", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), processorModel())}
	if load, err := os.ReadFile("/proc/loadavg"); err == nil {
		if fields := strings.Fields(string(load)); len(fields) > 2 {
			lines = append(lines, fmt.Sprintf("- load at the end of the run (1, 5, 15 minutes): %s", strings.Join(fields[:3], ", ")))
		}
	}
	ssh, _ := exec.Command("ssh", "-V").CombinedOutput()
	aws, _ := exec.Command(b.programs.aws, "--version").Output()
	own, _ := exec.Command(b.programs.gateway, "version").Output()
	lines = append(lines, fmt.Sprintf("- programs: %s; %s, %s, %s; on the instance: %s",
		firstWord(own, "\n"), runtime.Version(), firstWord(ssh, ","), firstWord(aws, " "), b.kind))
	return strings.Join(lines, "\n") + "\n"
}

func firstWord(text []byte, end string) string {
	word, _, _ := strings.Cut(strings.TrimSpace(string(text)), end)
	return word
}

func processorModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			return " (" + strings.TrimSpace(value) + ")"
		}
	}
	return ""
}
