package archtest

import (
	"os"
	"path/filepath"
	"regexp"
	"testing"
)

var (
	toSpec   = regexp.MustCompile(`SPEC\.md (§[0-9.]*[0-9](?:, §[0-9.]*[0-9])*)`)
	sectionN = regexp.MustCompile(`§([0-9.]*[0-9])`)
	heading  = regexp.MustCompile(`(?m)^#+ ([0-9]+(?:\.[0-9]+)?)[. ]`)
)

// Comments give the source of a rule by its section of the specification, and a reader who follows one has to arrive.
func TestSectionsOfTheSpecificationExist(t *testing.T) {
	root := filepath.Join("..", "..")
	spec, err := os.ReadFile(filepath.Join(root, "ssmproto", "SPEC.md"))
	if err != nil {
		t.Fatal(err)
	}
	sections := map[string]bool{}
	for _, found := range heading.FindAllStringSubmatch(string(spec), -1) {
		sections[found[1]] = true
	}
	followed := 0
	for _, p := range load(t).ours {
		for _, path := range p.paths(append(append(p.GoFiles, p.TestGoFiles...), p.XTestGoFiles...)) {
			text, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			for _, reference := range toSpec.FindAllStringSubmatch(string(text), -1) {
				for _, section := range sectionN.FindAllStringSubmatch(reference[1], -1) {
					if followed++; !sections[section[1]] {
						t.Errorf("%s speaks of SPEC.md §%s, which there is not", filepath.Base(filepath.Dir(path))+"/"+filepath.Base(path), section[1])
					}
				}
			}
		}
	}
	if followed == 0 || len(sections) == 0 {
		t.Fatalf("%d references to %d sections: the patterns find nothing", followed, len(sections))
	}
}
