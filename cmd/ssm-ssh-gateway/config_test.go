package main

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// TestExampleConfig loads the example, and finds every key of the configuration in it.
func TestExampleConfig(t *testing.T) {
	path := filepath.Join("..", "..", "config.example.toml")
	for _, f := range findAll(t.Context(), path) {
		t.Error(f)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, key := range configKeys(reflect.TypeFor[fileConfig]()) {
		if !regexp.MustCompile(`(?m)^(#?` + key + ` = |\[+` + key + `\]+)`).Match(text) {
			t.Errorf("config.example.toml says nothing about %q", key)
		}
	}
}

// configKeys lists the keys of a configuration struct and of those within it.
func configKeys(structure reflect.Type) []string {
	var keys []string
	for i := range structure.NumField() {
		field := structure.Field(i)
		keys = append(keys, field.Tag.Get("toml"))
		inner := field.Type
		if inner.Kind() == reflect.Slice {
			inner = inner.Elem()
		}
		if inner.Kind() == reflect.Struct && strings.HasSuffix(inner.Name(), "Config") {
			keys = append(keys, configKeys(inner)...)
		}
	}
	return keys
}

// TestBadConfigs checks each testdata/*.bad.toml: its comments "# want: …" are the findings it must give, all of them and no other.
func TestBadConfigs(t *testing.T) {
	files, err := filepath.Glob(filepath.Join("testdata", "*.bad.toml"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no bad configurations (%v)", err)
	}
	for _, path := range files {
		t.Run(filepath.Base(path), func(t *testing.T) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			var want []string
			for _, match := range regexp.MustCompile(`(?m)^# want: (.*)$`).FindAllStringSubmatch(string(text), -1) {
				want = append(want, match[1])
			}
			findings := findAll(t.Context(), path)
			if len(findings) != len(want) {
				t.Errorf("%d findings, want %d: %v", len(findings), len(want), findings)
			}
			for i := range min(len(findings), len(want)) {
				if got := strings.TrimPrefix(findings[i].String(), "testdata"+string(filepath.Separator)); !strings.Contains(got, want[i]) {
					t.Errorf("finding %d is %q, want %q", i, got, want[i])
				}
			}
		})
	}
}

// TestDefaultsThatAreNotZero checks the keys whose absence means something else than their zero.
func TestDefaultsThatAreNotZero(t *testing.T) {
	off, on := false, true
	for _, c := range []struct {
		said *bool
		want bool
	}{{nil, false}, {&on, false}, {&off, true}} {
		if got := (sessionConfig{EarlyAnswers: c.said}).noEarlyAnswers(); got != c.want {
			t.Errorf("sftp_early_answers %v: noEarlyAnswers is %v", c.said, got)
		}
	}
	if got := (sessionConfig{}).keepWarm(); got != defaultKeepWarm {
		t.Errorf("keep_warm is %s", got)
	}
	if got := (sessionConfig{KeepWarm: &duration{}}).keepWarm(); got != 0 {
		t.Errorf(`keep_warm = "0s" is %s`, got)
	}
}

// TestPoliciesOfTheDocumentsLoad: what people copy out of docs/ is strictly valid.
func TestPoliciesOfTheDocumentsLoad(t *testing.T) {
	documents, err := filepath.Glob(filepath.Join("..", "..", "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for _, path := range documents {
		text, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for i, block := range regexp.MustCompile(`(?m)(^    @id\(.*\n(    .*\n)*)`).FindAllString(string(text), -1) {
			found++
			if _, err := authz.LoadPolicy([]authz.PolicyFile{{Name: filepath.Base(path), Text: []byte(block)}}); err != nil {
				t.Errorf("%s, block %d: %v", path, i+1, err)
			}
		}
	}
	if found == 0 {
		t.Error("no policy in docs/")
	}
}
