package main

import (
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestCommandsExplained: every command says what it is for, shows how it is used, and has its place in the documentation with all its flags.
func TestCommandsExplained(t *testing.T) {
	documentation := commandsPage(t)
	var visit func(cmd *cobra.Command)
	visit = func(cmd *cobra.Command) {
		for _, inner := range cmd.Commands() {
			visit(inner)
		}
		if !cmd.HasParent() || cmd.Name() == "help" || cmd.HasSubCommands() {
			return
		}
		name := strings.TrimPrefix(cmd.CommandPath(), "ssm-ssh-gateway ")
		if cmd.Short == "" || cmd.Example == "" {
			t.Errorf("%s has no short description or no example", name)
		}
		_, section, found := strings.Cut(documentation, "### "+name+"\n")
		section, _, _ = strings.Cut(section, "\n### ")
		if !found {
			t.Errorf("docs/commands.md has no section about %q", name)
			return
		}
		for _, flag := range strings.Fields(flagNames(cmd)) {
			if !strings.Contains(section, flag) {
				t.Errorf("docs/commands.md does not tell of %s %s", name, flag)
			}
		}
	}
	visit(newRootCommand())
}

// TestDocumentedCommandsExist: the documentation has no section for a command, and in it no flag, that is not there.
func TestDocumentedCommandsExist(t *testing.T) {
	root := newRootCommand()
	for _, section := range strings.Split(commandsPage(t), "\n### ")[1:] {
		name, text, _ := strings.Cut(section, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		cmd, rest, err := root.Find(strings.Fields(name))
		if err != nil || len(rest) > 0 {
			t.Errorf("there is no command %q: %v", name, err)
			continue
		}
		for _, match := range regexp.MustCompile("(?:^|[ `])--([a-z][a-z-]*)").FindAllStringSubmatch(text, -1) {
			if cmd.Flag(match[1]) == nil {
				t.Errorf("%s has no flag --%s", name, match[1])
			}
		}
		for _, match := range regexp.MustCompile("\\| `-([a-zA-Z])`").FindAllStringSubmatch(text, -1) {
			if cmd.Flags().ShorthandLookup(match[1]) == nil && cmd.InheritedFlags().ShorthandLookup(match[1]) == nil {
				t.Errorf("%s has no flag -%s", name, match[1])
			}
		}
	}
}

// TestEnvironmentDocumented: what the shipped program reads of its environment by itself, or sets for others, is in the documentation.
func TestEnvironmentDocumented(t *testing.T) {
	page := commandsPage(t)
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if strings.HasSuffix(name, "_test.go") || strings.HasPrefix(string(text), "//go:build profile") {
			continue
		}
		for _, match := range regexp.MustCompile(`(?:Getenv\(|LookupEnv\(|Environ\(\), |responsePrefix = )"([A-Z][A-Z_]+)`).FindAllStringSubmatch(string(text), -1) {
			if !strings.Contains(page, "`"+match[1]) {
				t.Errorf("%s uses %s, of which docs/commands.md does not tell", name, match[1])
			}
		}
	}
}

// TestExitStatusesDocumented: the statuses of the table are those of the program.
func TestExitStatusesDocumented(t *testing.T) {
	table, _, _ := strings.Cut(commandsPage(t), "\nMessages go to")
	var documented []string
	for _, match := range regexp.MustCompile(`(?m)^\| (\d+) \|`).FindAllStringSubmatch(table, -1) {
		documented = append(documented, match[1])
	}
	want := []string{"0"}
	for _, code := range []int{exitFailure, exitUsage, exitInterrupted, exitSSH} {
		want = append(want, strconv.Itoa(code))
	}
	if !slices.Equal(documented, want) {
		t.Errorf("docs/commands.md has the statuses %v, the program %v", documented, want)
	}
}

func commandsPage(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "commands.md"))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// flagNames lists the flags of a command's own, as they are typed.
func flagNames(cmd *cobra.Command) string {
	var names []string
	for line := range strings.Lines(cmd.LocalFlags().FlagUsages()) {
		for _, word := range strings.Fields(line) {
			if strings.HasPrefix(word, "--") && word != "--help" {
				names = append(names, word)
				break
			}
		}
	}
	return strings.Join(names, " ")
}
