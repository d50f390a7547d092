package archtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const module = "github.com/ssm-ssh-gateway/ssm-ssh-gateway"

// pkg is what go list tells of a package.
type pkg struct {
	ImportPath   string
	Dir          string
	Name         string
	Standard     bool
	GoFiles      []string // of this system, without tests
	TestGoFiles  []string
	XTestGoFiles []string
	Imports      []string // direct, without tests
	Deps         []string // all, without tests
}

// tree is the module: its packages, and everything they stand on, by import path.
type tree struct {
	root string
	ours []*pkg
	all  map[string]*pkg
}

var loadOnce = sync.OnceValues(func() (*tree, error) {
	root, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}").Output()
	if err != nil {
		return nil, err
	}
	t := &tree{root: strings.TrimSpace(string(root)), all: map[string]*pkg{}}
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Dir,Name,Standard,GoFiles,TestGoFiles,XTestGoFiles,Imports,Deps", "./...")
	cmd.Dir = t.root
	out, err := cmd.Output()
	if err != nil {
		return nil, err
	}
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		p := &pkg{}
		if err := dec.Decode(p); errors.Is(err, io.EOF) {
			return t, nil
		} else if err != nil {
			return nil, err
		}
		t.all[p.ImportPath] = p
		if within(p.ImportPath, module) {
			t.ours = append(t.ours, p)
		}
	}
})

func load(t *testing.T) *tree {
	t.Helper()
	tree, err := loadOnce()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			t.Fatalf("go list: %v\n%s", err, exit.Stderr)
		}
		t.Fatalf("go list: %v", err)
	}
	return tree
}

// below gives our packages at or under the given directories of the module. A directory without a package is a fault of the rule.
func (tr *tree) below(t *testing.T, dirs ...string) []*pkg {
	t.Helper()
	var found []*pkg
	for _, dir := range dirs {
		n := len(found)
		for _, p := range tr.ours {
			if within(p.ImportPath, module+"/"+dir) {
				found = append(found, p)
			}
		}
		if len(found) == n {
			t.Errorf("there is no package in %s: the rule below holds nothing", dir)
		}
	}
	return found
}

// short names one of our packages by its directory in the module.
func (p *pkg) short() string { return strings.TrimPrefix(p.ImportPath, module+"/") }

func (p *pkg) paths(names []string) []string {
	var paths []string
	for _, name := range names {
		paths = append(paths, filepath.Join(p.Dir, name))
	}
	return paths
}

// within reports whether an import path is the given one or below it.
func within(path, parent string) bool { return path == parent || strings.HasPrefix(path, parent+"/") }

func anyWithin(path string, parents []string) bool {
	for _, parent := range parents {
		if within(path, parent) {
			return true
		}
	}
	return false
}
