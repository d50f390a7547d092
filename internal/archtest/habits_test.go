package archtest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The top level is part of the product's card. A new package there needs a reason that none of the present ones can carry.
func TestTopLevel(t *testing.T) {
	tree := load(t)
	allowed := []string{"cmd", "gateway", "authz", "ssmproto", "hostkeys", "integration", "internal"}
	for _, p := range tree.ours {
		top, _, _ := strings.Cut(p.short(), "/")
		if !slices.Contains(allowed, top) {
			t.Errorf("%s is a new top-level package", p.short())
		}
	}
}

func TestOnePackageComment(t *testing.T) {
	for _, p := range load(t).ours {
		files := p.GoFiles
		if len(files) == 0 {
			files = append(slices.Clone(p.TestGoFiles), p.XTestGoFiles...)
		}
		var where []string
		for _, path := range p.paths(files) {
			if parse(t, path, parser.PackageClauseOnly|parser.ParseComments).Doc != nil {
				where = append(where, filepath.Base(path))
			}
		}
		if len(where) != 1 {
			t.Errorf("%s has a package comment in %d files %v: a reader looks for exactly one", p.short(), len(where), where)
		}
	}
}

// A package that starts goroutines counts them when its tests end.
func TestGoroutinesAreCounted(t *testing.T) {
	for _, p := range load(t).ours {
		if p.Name == "main" {
			continue // one process, ended by its end; cmd is tested as a program
		}
		if place := startsGoroutine(t, p); place != "" && !importsInTests(t, p, "go.uber.org/goleak") {
			t.Errorf("%s starts a goroutine (%s) and has no test that counts them: add a TestMain with goleak", p.short(), place)
		}
	}
}

func startsGoroutine(t *testing.T, p *pkg) string {
	t.Helper()
	for _, path := range p.paths(p.GoFiles) {
		found := false
		ast.Inspect(parse(t, path, 0), func(n ast.Node) bool {
			_, isGo := n.(*ast.GoStmt)
			found = found || isGo
			return !found
		})
		if found {
			return filepath.Base(path)
		}
	}
	return ""
}

func importsInTests(t *testing.T, p *pkg, path string) bool {
	t.Helper()
	for _, file := range p.paths(append(slices.Clone(p.TestGoFiles), p.XTestGoFiles...)) {
		for _, spec := range parse(t, file, parser.ImportsOnly).Imports {
			if strings.Trim(spec.Path.Value, `"`) == path {
				return true
			}
		}
	}
	return false
}

// The emulator and its agent may read and write messages with our codec. Everything else of ssmproto is the client's behavior, and the far side
// has its own: a mistake that both ends share would never show.
func TestFarSideSharesOnlyTheCodec(t *testing.T) {
	tree := load(t)
	codec := map[string]bool{}
	declares(parse(t, filepath.Join(tree.root, "ssmproto", "message.go"), 0), codec)
	if !codec["Message"] || !codec["Parse"] {
		t.Fatal("ssmproto/message.go does not declare Message and Parse: the rule below holds nothing")
	}
	for _, p := range tree.below(t, "integration/awsemu", "integration/agent") {
		for _, path := range p.paths(p.GoFiles) {
			ast.Inspect(parse(t, path, 0), func(n ast.Node) bool {
				use, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				if x, ok := use.X.(*ast.Ident); ok && x.Name == "ssmproto" && x.Obj == nil && !codec[use.Sel.Name] {
					t.Errorf("%s uses ssmproto.%s, which is not part of the codec in message.go", filepath.Join(p.short(), filepath.Base(path)), use.Sel.Name)
				}
				return true
			})
		}
	}
}

// declares collects the names a file declares at its top level, methods aside.
func declares(file *ast.File, names map[string]bool) {
	for _, d := range file.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil {
				names[d.Name.Name] = true
			}
		case *ast.GenDecl:
			for _, spec := range d.Specs {
				switch spec := spec.(type) {
				case *ast.TypeSpec:
					names[spec.Name.Name] = true
				case *ast.ValueSpec:
					for _, name := range spec.Names {
						names[name.Name] = true
					}
				}
			}
		}
	}
}

// go.mod heads what only tests need; here it is enough that nothing points out of the tree.
func TestNothingOutsideTheTree(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(load(t).root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(text), "\nreplace ") {
		t.Error("go.mod has a replace: `go install …@latest` refuses such a module")
	}
}

func parse(t *testing.T, path string, mode parser.Mode) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, mode)
	if err != nil {
		t.Fatal(err)
	}
	return file
}
