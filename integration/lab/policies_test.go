package lab

import (
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
)

// TestTheLabHasThePoliciesOfTheDocument: whatever runs in the lab tries what docs/aws.md tells people to write.
func TestTheLabHasThePoliciesOfTheDocument(t *testing.T) {
	text, err := os.ReadFile(filepath.Join("..", "..", "docs", "aws.md"))
	if err != nil {
		t.Fatal(err)
	}
	filled := strings.NewReplacer("ACCOUNT", AccountID, "REGION", Region).Replace(string(text))
	var documented []any
	for _, block := range regexp.MustCompile("(?s)```json\n(.*?)```").FindAllStringSubmatch(filled, -1) {
		documented = append(documented, parse(t, []byte(block[1])))
	}
	for i, name := range map[int]string{0: "gateway", 2: "person"} {
		embedded, err := policyFiles.ReadFile("policies/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		if i >= len(documented) || !reflect.DeepEqual(documented[i], parse(t, embedded)) {
			t.Errorf("policy %d of docs/aws.md is not policies/%s.json", i+1, name)
		}
	}
}

func parse(t *testing.T, text []byte) (policy any) {
	t.Helper()
	if err := json.Unmarshal(text, &policy); err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	return policy
}
