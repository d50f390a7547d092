package referee

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// pluginPackage is the plugin's main package in AWS's repository; plugin/go.mod says which version.
const pluginPackage = "github.com/aws/session-manager-plugin/src/sessionmanagerplugin-main"

// Build makes AWS's session-manager-plugin and returns the absolute path of the program, which has the name the AWS command line looks for.
// It lies in .tools/bin below the module's root. A program built from the same sources is taken as it is. Calls at the same time, also from several
// processes, may build twice and do not disturb each other, nor who runs the program: it is put in place whole.
func Build(ctx context.Context) (string, error) {
	program, err := build(ctx)
	if err != nil {
		return "", fmt.Errorf("build session-manager-plugin: %w", err)
	}
	return program, nil
}

func build(ctx context.Context) (string, error) {
	source, err := pluginDir()
	if err != nil {
		return "", err
	}
	want, err := fingerprint(source)
	if err != nil {
		return "", err
	}
	bin := filepath.Join(source, "..", "..", "..", ".tools", "bin")
	program := filepath.Join(bin, "session-manager-plugin")
	if runtime.GOOS == "windows" {
		program += ".exe"
	}
	if have, err := os.ReadFile(program + ".built-from"); err == nil && string(have) == want {
		if _, err := os.Stat(program); err == nil {
			return program, nil
		}
	}
	if err := os.MkdirAll(bin, 0o755); err != nil {
		return "", err
	}
	scratch, err := os.MkdirTemp(bin, "building-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(scratch)
	fresh := filepath.Join(scratch, "plugin")
	if err := compile(ctx, source, fresh); err != nil {
		return "", err
	}
	note := filepath.Join(scratch, "note")
	if err := os.WriteFile(note, []byte(want), 0o644); err != nil {
		return "", err
	}
	return program, errors.Join(os.Rename(fresh, program), os.Rename(note, program+".built-from"))
}

func compile(ctx context.Context, source, output string) error {
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", output, pluginPackage)
	cmd.Dir = source
	// The caller's flags are for our module (-race, -mod), and the target is this machine even while cross-checking.
	cmd.Env = append(os.Environ(), "GOWORK=off", "GOFLAGS=-mod=readonly", "CGO_ENABLED=0", "GOOS="+runtime.GOOS, "GOARCH="+runtime.GOARCH)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w\n%s", err, out)
	}
	return nil
}

// pluginDir finds the nested module beside this file, wherever the test or tool was started.
func pluginDir() (string, error) {
	_, self, _, ok := runtime.Caller(0)
	if !ok || !filepath.IsAbs(self) {
		return "", errors.New("the place of its source is unknown: this program was built with -trimpath")
	}
	return filepath.Join(filepath.Dir(self), "plugin"), nil
}

// fingerprint changes when the program would: with the versions in the nested module, our stand-in package, and the compiler.
func fingerprint(source string) (string, error) {
	sum := sha256.New()
	fmt.Fprintln(sum, runtime.Version(), runtime.GOOS, runtime.GOARCH)
	for _, name := range []string{"go.mod", "go.sum", "uuid/uuid.go"} {
		text, err := os.ReadFile(filepath.Join(source, filepath.FromSlash(name)))
		if err != nil {
			return "", err
		}
		fmt.Fprintln(sum, name, len(text))
		sum.Write(text)
	}
	return hex.EncodeToString(sum.Sum(nil)), nil
}
