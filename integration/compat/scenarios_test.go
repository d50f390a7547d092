package compat

import (
	"bytes"
	"crypto/sha256"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/tools/txtar"
)

// scenarioLimit is how long a scenario may take. On a busy machine new session keys every few hundred kilobytes take a while, and so does a browser.
const scenarioLimit = 5 * time.Minute

var update = flag.Bool("update", false, "write into the scenarios what they print without the gateway")

// TestScenarios runs each file of testdata/scenarios straight to sshd, where it must do what the file says, and through the gateway, where it must
// do what it did before.
//
// A scenario is a txtar archive. Its comment says what it is about. Its file "run" is a bash script that reaches the machine as "target"; $LOCAL is its
// working directory, $REMOTE one that the machine's user can write to, $PORT1 to $PORT3 are free ports of loopback. What somebody may want to look at goes
// into $ARTIFACTS, which the script makes itself. Its file "stdout" is what the script must print, its file "needs", if any, the programs it uses, its file
// "routes" the routes to compare, if it cannot take them all, and its file "not-embedded" why it cannot be done on the embedded machine. The other files are
// put into $LOCAL. What is left in either directory counts too.
func TestScenarios(t *testing.T) {
	routes := []route{jump}
	switch {
	case warm:
		routes = warmWays
		t.Cleanup(func() { sessionsServedAgain(t) })
	case everything:
		routes = wayOrder
	}
	runScenarios(t, "Scenarios", routes)
}

// sessionsServedAgain wants the audit log to say that the suite was what its name says.
func sessionsServedAgain(t *testing.T) {
	log, err := os.ReadFile(filepath.Join(theWorld(t).lab.Dir, "audit.jsonl"))
	if n := strings.Count(string(log), `"event":"upstream.reused"`); err != nil || n == 0 {
		t.Errorf("%d sessions served another connection (%v)", n, err)
	}
}

// suites are the directories of scripts, by their section in the document, with the test that runs them.
var suites = map[string]struct{ dir, test string }{
	"Scenarios":                   {"testdata/scenarios", "TestScenarios"},
	"Clients":                     {"testdata/clients", "TestClients"},
	"Editors, screens, terminals": {"testdata/desktop", "TestDesktop"},
}

// TestClients does the same with the scripts of testdata/clients, in which programs that are not OpenSSH log in, run something and carry files both ways.
// They have no ssh_config: $HOST, $PORT and $LOGIN say where to go, $KEY is the person's key, $FINGERPRINT the host's. $JUMP is the machine's name
// where there is a jump to make, as $PERSON, and empty on a plain connection. $GOCLIENT is the client of package goclient. A file "version" is a command that tells which client it was.
func TestClients(t *testing.T) {
	needsEverything(t, "clients of other makers")
	runScenarios(t, "Clients", []route{direct})
}

// TestDesktop does the same with the scripts of testdata/desktop: what editors, screens and terminals on a person's desk do with ssh. What takes a while
// to install is below $TOOLS.
func TestDesktop(t *testing.T) {
	needsEverything(t, "editors, X11 and mosh")
	runScenarios(t, "Editors, screens, terminals", []route{jump, direct, connect})
}

func runScenarios(t *testing.T, section string, routes []route) {
	t.Helper()
	w := theWorld(t)
	files, err := scriptsOf(suites[section].dir)
	if err != nil || len(files) == 0 {
		t.Fatalf("nothing in %s (%v)", suites[section].dir, err)
	}
	for _, file := range files {
		s, err := readScenario(file)
		if err != nil {
			t.Fatal(err)
		}
		t.Run(s.name, func(t *testing.T) {
			row := theTable.row(section, s.name, s.about)
			row.script = hashOf(file)
			t.Parallel()
			defer row.close(t)
			for _, program := range s.needs {
				row.needs(t, program)
			}
			row.client = s.clientVersion(w)
			if s.notEmbedded != "" {
				row.about += " Not on the embedded machine: " + s.notEmbedded
			}
			s.differential(t, w, row, s.waysOf(routes))
		})
	}
}

// waysOf gives those routes that the scenario can take: its own, where it names some, and the embedded machine only where that can do it.
func (s *scenario) waysOf(routes []route) []route {
	if len(s.routes) > 0 {
		routes = s.routes
	}
	return slices.DeleteFunc(slices.Clone(routes), func(r route) bool {
		return s.notEmbedded != "" && r.control() != plain || warm && !slices.Contains(warmWays, r)
	})
}

// clientVersion gives the first line that the scenario's version command prints.
func (s *scenario) clientVersion(w *world) string {
	if s.version == "" {
		return ""
	}
	cmd := exec.Command("bash", "-c", s.version)
	cmd.Env = w.environ(plain)
	out, _ := cmd.CombinedOutput()
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	return line
}

// differential compares the routes with the plain one to the same machine.
func (s *scenario) differential(t *testing.T, w *world, row *tableRow, routes []route) {
	type control struct {
		traces
		took time.Duration
	}
	controls := map[route]control{}
	for _, r := range routes {
		t.Run(string(r), func(t *testing.T) {
			plainly, known := controls[r.control()]
			if !known {
				plainly.traces, plainly.took = s.control(t, w, r.control())
				controls[r.control()] = plainly
			}
			row.timed(r.control(), plainly.took)
			want := plainly.traces
			got, took := s.play(t, w, r)
			if warm && got == want { // now there is a session that has been used
				got, took = s.play(t, w, r)
			}
			switch {
			case got != want:
				row.compared(r, differs)
				t.Errorf("through the gateway:\n%s\nplain ssh:\n%s", got, want)
			case s.standsStill(t, w, r, took, plainly.took):
				row.compared(r, slow)
			default:
				row.compared(r, same)
			}
		})
	}
}

// control does it without the gateway, where it must do what it says.
func (s *scenario) control(t *testing.T, w *world, r route) (traces, time.Duration) {
	t.Helper()
	got, took := s.play(t, w, r)
	if *update && r == plain {
		s.rewrite(t, got.stdout)
	}
	if got.stdout != s.stdout {
		t.Fatalf("without the gateway the scenario does not do what it says:\n%s\nwant stdout %q", got, s.stdout)
	}
	return got, took
}

// rewrite puts what happened without the gateway into the scenario's file, to be read by whoever commits it.
func (s *scenario) rewrite(t *testing.T, stdout string) {
	t.Helper()
	archive, err := txtar.ParseFile(s.path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range archive.Files {
		if archive.Files[i].Name == "stdout" {
			archive.Files[i].Data = []byte(stdout)
		}
	}
	if err := os.WriteFile(s.path, txtar.Format(archive), 0o644); err != nil {
		t.Fatal(err)
	}
	s.stdout = stdout
}

// traces is all that a scenario leaves: comparable with ==.
type traces struct {
	outcome
	files string // a line for each file that is left, with its mode and hash
}

func (l traces) String() string { return l.outcome.String() + "\nfiles:\n" + l.files }

type scenario struct {
	path        string
	name, about string
	script      string
	stdout      string
	version     string
	needs       []string
	routes      []route
	notEmbedded string // why the embedded machine cannot do it
	files       []txtar.File
}

func readScenario(path string) (*scenario, error) {
	archive, err := txtar.ParseFile(path)
	if err != nil {
		return nil, err
	}
	s := &scenario{path: path, name: strings.TrimSuffix(filepath.Base(path), ".txtar"), about: strings.Join(strings.Fields(string(archive.Comment)), " ")}
	for _, file := range archive.Files {
		switch file.Name {
		case "run":
			s.script = string(file.Data)
		case "stdout":
			s.stdout = string(file.Data)
		case "needs":
			s.needs = strings.Fields(string(file.Data))
		case "not-embedded":
			s.notEmbedded = strings.TrimSpace(string(file.Data))
		case "version":
			s.version = string(file.Data)
		case "routes":
			for name := range strings.FieldsSeq(string(file.Data)) {
				s.routes = append(s.routes, route(name))
			}
		default:
			s.files = append(s.files, file)
		}
	}
	if s.script == "" || s.about == "" {
		return nil, fmt.Errorf("%s: a scenario has a comment and a file run", path)
	}
	return s, nil
}

// play runs the script one way, in fresh directories, and takes the time.
func (s *scenario) play(t *testing.T, w *world, r route) (traces, time.Duration) {
	local, remote := openDir(t, "local"), openDir(t, "remote")
	for _, file := range s.files {
		if err := os.WriteFile(filepath.Join(local, file.Name), file.Data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("bash", "-c", s.script)
	cmd.Dir = local
	cmd.Env = append(w.environ(r), "LOCAL="+local, "REMOTE="+remote)
	for n := 1; n <= 3; n++ {
		cmd.Env = append(cmd.Env, fmt.Sprintf("PORT%d=%d", n, freePort(t)))
	}
	watch := w.watch(t, r)
	cmd.Env = append(cmd.Env, "LOGINS="+watch.logins)
	got := run(t, cmd, scenarioLimit)
	took := watch.stop(t)
	plainly := strings.NewReplacer(local, "$LOCAL", remote, "$REMOTE")
	got.stdout, got.stderr = plainly.Replace(got.stdout), plainly.Replace(got.stderr)
	return traces{got, listing(t, local) + listing(t, remote)}, took
}

// openDir is a directory with a short name, since sockets are made in it, that every user of the machine may write to.
func openDir(t *testing.T, kind string) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "c-"+kind) //nolint:usetesting // t.TempDir is long, and its parent is closed to other users
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	return dir
}

// listing has mode, size and hash of every file below dir. Repositories are left out: git's own files have times in them.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var lines strings.Builder
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && (entry.Name() == ".git" || strings.HasSuffix(entry.Name(), ".git")) {
			return fs.SkipDir
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, path)
		fmt.Fprintf(&lines, "%s %v", name, info.Mode())
		if info.Mode().IsRegular() {
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&lines, " %d bytes %x", len(text), sha256.Sum256(text))
		}
		lines.WriteByte('\n')
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines.String()
}

// nextPort begins below the ports that systems give to outgoing connections, which would take one between the choice and its use.
var nextPort atomic.Int32

func init() { nextPort.Store(20000 + int32(os.Getpid()%5000)) }

// freePort gives a port of loopback that is free and that no other test of this process is given.
func freePort(t *testing.T) int {
	t.Helper()
	for range 1000 {
		port := int(nextPort.Add(1))
		listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			_ = listener.Close()
			return port
		}
	}
	t.Fatal("no free port")
	return 0
}

func authorizedLine(key ssh.PublicKey) string {
	return string(bytes.TrimLeft(ssh.MarshalAuthorizedKey(key), " "))
}
