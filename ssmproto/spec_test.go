package ssmproto

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// TestSpecNamesItsSources: no section of SPEC.md is without a tag that says where its rules come from.
func TestSpecNamesItsSources(t *testing.T) {
	text, err := os.ReadFile("SPEC.md")
	if err != nil {
		t.Fatal(err)
	}
	tagged := regexp.MustCompile(`\[[^\]]*[PAVDRO?]\]`)
	for _, section := range regexp.MustCompile(`(?m)^##+ `).Split(string(text), -1)[1:] {
		title, body, _ := strings.Cut(section, "\n")
		if strings.TrimSpace(body) != "" && !tagged.MatchString(section) {
			t.Errorf("%q does not say where it is from", title)
		}
	}
}
