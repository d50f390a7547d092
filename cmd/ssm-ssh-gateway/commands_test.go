package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestCommandsExplained: every command says what it is for, shows how it is used, and has its place in the documentation with all its flags.
func TestCommandsExplained(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "commands.md"))
	if err != nil {
		t.Fatal(err)
	}
	documentation := string(text)
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
