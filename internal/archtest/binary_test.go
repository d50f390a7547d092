package archtest

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The package graph is not the whole truth: cobra imports text/template and leaves it out of a program that sets no template. What counts
// is what the linker kept.
func TestBinaryHoldsNoTemplates(t *testing.T) {
	program := filepath.Join(t.TempDir(), "ssm-ssh-gateway")
	for _, args := range [][]string{{"build", "-ldflags=-w", "-o", program, module + "/" + ourShips}, {"tool", "nm", program}} {
		out, err := exec.Command("go", args...).CombinedOutput()
		if err != nil {
			t.Fatalf("go %s: %v\n%s", args[0], err, out)
		}
		if args[0] == "build" {
			continue
		}
		if !bytes.Contains(out, []byte("runtime.main")) {
			t.Fatal("nm shows no symbols: the rule below holds nothing")
		}
		for line := range strings.Lines(string(out)) {
			if strings.Contains(line, "text/template.(*Template).Execute") {
				t.Fatal("the binary executes text/template: that defeats dead-code removal for the AWS SDK, several MB; no package of ours may " +
					"import it, nor call cobra's SetUsageTemplate or SetHelpTemplate; `go build -ldflags=-dumpdep` tells who else does")
			}
		}
	}
}
