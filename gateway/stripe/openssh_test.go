package stripe

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// proxyFor makes the test binary be an SFTP server of its own: a proxy over several of OpenSSH's in a directory. OpenSSH's clients start it with -D.
const proxyFor = "STRIPE_TEST_PROXY_FOR"

type stdio struct{}

func (stdio) Read(b []byte) (int, error)  { return os.Stdin.Read(b) }
func (stdio) Write(b []byte) (int, error) { return os.Stdout.Write(b) }
func (stdio) Close() error                { return os.Stdin.Close() }

// serveAsProxy carries standard input and output, and appends a line on every striped transfer to a file beside the directory.
func serveAsProxy(dir string) error {
	open := func() (io.ReadWriteCloser, error) { return startProcess(dir, opensshServer, "-e") }
	first, err := open()
	if err != nil {
		return err
	}
	cfg := Config{MaxLanes: 4, Bulk: 128 << 10, Open: func(context.Context) (io.ReadWriteCloser, error) { return open() }}
	cfg.OnTransfer = func(t Transfer) {
		f, err := os.OpenFile(dir+".log", os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
		if err == nil {
			fmt.Fprintln(f, t.Path, t.Read, t.Written, t.Lanes, t.Err)
			f.Close()
		}
	}
	return serve(context.Background(), stdio{}, first, cfg)
}

// runProgram runs one of OpenSSH's clients on a proxy for dir.
func runProgram(t *testing.T, dir, stdin string, argv ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), tooLong)
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = testkit.Patience
	cmd.Env = append(os.Environ(), proxyFor+"="+dir)
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %v\n%s", argv, err, out)
	}
}

func needPrograms(t *testing.T) (self string) {
	t.Helper()
	needServer(t)
	for _, name := range []string{"sftp", "scp"} {
		if _, err := exec.LookPath(name); err != nil {
			t.Skipf("OpenSSH's %s is not installed: %v", name, err)
		}
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return self
}

// filesToCopy makes a large file, and a tree with another and many small ones.
func filesToCopy(t *testing.T, near string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Join(near, "tree/sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	put := func(name string, b []byte) {
		if err := os.WriteFile(filepath.Join(near, name), b, 0o640); err != nil {
			t.Fatal(err)
		}
	}
	large := noise(6<<20 + 4321)
	put("big", large)
	put("tree/empty", nil)
	put("tree/sub/big", large)
	for i := range 200 {
		put(fmt.Sprintf("tree/sub/%d", i), noise(i*20))
	}
}

func TestOpenSSHClients(t *testing.T) {
	self := needPrograms(t)
	far, near := filepath.Join(t.TempDir(), "far"), t.TempDir()
	if err := os.MkdirAll(far, 0o755); err != nil {
		t.Fatal(err)
	}
	filesToCopy(t, near)
	same := func(a, b string) {
		t.Helper()
		x, err := os.ReadFile(a)
		y, err2 := os.ReadFile(b)
		if err != nil || err2 != nil || !bytes.Equal(x, y) {
			t.Errorf("%s and %s differ (%v, %v)", a, b, err, err2)
		}
	}
	at := func(dir, name string) string { return filepath.Join(dir, name) }

	batch := "put -p " + at(near, "big") + " up\nget -p up " + at(near, "back") + "\nput -r " + at(near, "tree") + "\nget -r tree " + at(near, "tree2") + "\n"
	runProgram(t, far, batch, "sftp", "-q", "-b", "-", "-D", self)
	same(at(near, "big"), at(far, "up"))
	same(at(near, "big"), at(near, "back"))
	if diff := cmp.Diff(tree(t, at(near, "tree")), tree(t, at(near, "tree2"))); diff != "" {
		t.Errorf("a tree there and back:\n%s", diff)
	}

	// Resumed in both directions.
	if err := os.Truncate(at(far, "up"), 2<<20+7); err != nil {
		t.Fatal(err)
	}
	runProgram(t, far, "reput "+at(near, "big")+" up\n", "sftp", "-q", "-b", "-", "-D", self)
	same(at(near, "big"), at(far, "up"))
	if err := os.Truncate(at(near, "back"), 1<<20+3); err != nil {
		t.Fatal(err)
	}
	runProgram(t, far, "reget up "+at(near, "back")+"\n", "sftp", "-q", "-b", "-", "-D", self)
	same(at(near, "big"), at(near, "back"))

	runProgram(t, far, "", "scp", "-q", "-p", "-D", self, at(near, "big"), "host:scp")
	same(at(near, "big"), at(far, "scp"))
	runProgram(t, far, "", "scp", "-q", "-D", self, "host:scp", at(near, "scp-back"))
	same(at(near, "big"), at(near, "scp-back"))

	log, err := os.ReadFile(far + ".log")
	// sftp's reput opens for appending, and so is the one large transfer of eight that is not striped. On a busy machine another may be over before its lanes are there.
	if n := bytes.Count(log, []byte("\n")); err != nil || n == 0 || n > 7 {
		t.Errorf("%d transfers were striped, want up to 7: %v\n%s", n, err, log)
	}
	if bytes.Contains(log, []byte("stripe:")) {
		t.Errorf("a check failed:\n%s", log)
	}
}
