package authz

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cedar-policy/cedar-go/x/exp/schema"
)

func readPolicies(t testing.TB, path string) []PolicyFile {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return []PolicyFile{{Name: filepath.Base(path), Text: text}}
}

func loadText(t testing.TB, text string) *Policy {
	t.Helper()
	p, err := LoadPolicy([]PolicyFile{{Name: "test.cedar", Text: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// Every bad file says in comments what must be found: `// want FILE:LINE:COL: MESSAGE`, as beginnings; nothing else may be found.
func TestBadPolicies(t *testing.T) {
	paths, err := filepath.Glob("testdata/policies/*.bad.cedar")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no bad policies: %v", err)
	}
	for _, path := range paths {
		files := readPolicies(t, path)
		var wants []string
		for line := range strings.Lines(string(files[0].Text)) {
			if want, ok := strings.CutPrefix(line, "// want "); ok {
				wants = append(wants, strings.TrimSpace(want))
			}
		}
		p, err := LoadPolicy(files)
		findings := Findings(err)
		if p != nil || len(wants) == 0 || len(findings) != len(wants) {
			t.Errorf("%s: %d findings, want %d:\n%v", path, len(findings), len(wants), err)
			continue
		}
		for i, f := range findings {
			if !strings.HasPrefix(f.Error(), wants[i]) {
				t.Errorf("%s: found %s\n want %s", path, f, wants[i])
			}
		}
	}
}

func TestGoodPolicies(t *testing.T) {
	p, err := LoadPolicy(readPolicies(t, "testdata/policies/example.good.cedar"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := p.IDs(), []string{"dba-tunnels", "dev-boxes", "no-tunnels-into-pci", "oncall-prod"}; !slices.Equal(got, want) {
		t.Errorf("ids %q, want %q", got, want)
	}
}

// One file's faults do not hide another's, and an id is unique over all files.
func TestPolicyFilesTogether(t *testing.T) {
	_, err := LoadPolicy([]PolicyFile{
		{Name: "a", Text: []byte(`@id("x") permit (principal, action, resource);`)},
		{Name: "b", Text: []byte(`permit (`)},
		{Name: "c", Text: []byte("\n" + `@id("x") permit (principal, action, resource);`)},
	})
	var got []string
	for _, f := range Findings(err) {
		got = append(got, f.Error())
	}
	want := []string{`b:1:9: no Cedar policy: the file ends where "principal" should stand`, `c:2:1: policy "x": @id is already used at a:1:1`}
	if len(got) != 2 || !strings.HasPrefix(got[0], want[0]) || got[1] != want[1] {
		t.Errorf("%q, want %q", got, want)
	}
}

// The action hierarchy used for evaluation is the one of the schema.
func TestActionsMatchTheSchema(t *testing.T) {
	var s schema.Schema
	if err := s.UnmarshalCedar(schemaText); err != nil {
		t.Fatal(err)
	}
	resolved, err := s.Resolve()
	if err != nil {
		t.Fatal(err)
	}
	groups := 0
	for uid, action := range resolved.Actions {
		if action.AppliesTo == nil {
			groups++
			continue
		}
		e, ok := actionEntities[uid]
		if !ok || !e.Parents.Equal(action.Entity.Parents) {
			t.Errorf("%s: parents %v here, %v in the schema", uid, e.Parents, action.Entity.Parents)
		}
	}
	if len(resolved.Actions)-groups != len(actionEntities) || groups != 3 {
		t.Errorf("%d actions and %d groups in the schema, %d actions here", len(resolved.Actions)-groups, groups, len(actionEntities))
	}
}

func TestCheckNames(t *testing.T) {
	p := loadText(t, `
@id("a") permit (principal in Group::"dev", action, resource) when { principal == User::"alice" || principal in [Group::"ops", Group::"dba"] };
@id("b") forbid (principal == User::"alcie", action, resource);
@id("c") forbid (principal is User in Group::"dvelopers", action, resource) unless { principal is User in Group::"opps" };
`)
	d := directory(t, DirectoryConfig{People: []Person{{Name: "alice"}}, Groups: []Group{{Name: "dev"}, {Name: "ops"}}})
	var got []string
	for _, f := range Findings(p.CheckNames(d)) {
		got = append(got, f.Error())
	}
	want := []string{
		`test.cedar:2:1: policy "a": Group::"dba" is not configured`,
		`test.cedar:3:1: policy "b": User::"alcie" is not configured`,
		`test.cedar:4:1: policy "c": Group::"dvelopers" is not configured`,
		`test.cedar:4:1: policy "c": Group::"opps" is not configured`,
	}
	if !slices.Equal(got, want) {
		t.Errorf("%q\nwant %q", got, want)
	}
	if err := BuiltinPolicy().CheckNames(d); err != nil {
		t.Error(err)
	}
}
