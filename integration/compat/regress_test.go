package compat

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/instance"
)

const (
	regressSection = "OpenSSH's own tests" // of the document

	regressSuite = "/usr/lib/openssh/regress" // where Debian's openssh-tests has OpenSSH's own tests
	scriptLimit  = 10 * time.Minute
)

// quickScripts are those that `make test` has time for.
var quickScripts = []string{"exit-status", "stderr-data", "stderr-after-eof", "yes-head", "envpass"}

// TestOpenSSH runs OpenSSH's regression tests with the gateway between their ssh and their sshd. A script of theirs asks for connections by a
// ProxyCommand that starts sshd; here the ProxyCommand is a connection through the gateway, to a machine whose port 22 is that same sshd with that same
// configuration (regress_machine_test.go). The scripts themselves are as they were installed.
func TestOpenSSH(t *testing.T) {
	reasons, err := readReasons("testdata/openssh.txt")
	if err != nil {
		t.Fatal(err)
	}
	exceptions, err := readExceptions("testdata/openssh-except.txt")
	if err != nil {
		t.Fatal(err)
	}
	scripts, _ := filepath.Glob(regressSuite + "/*.sh")
	if len(scripts) == 0 {
		t.Skip("OpenSSH's tests are not installed (Debian: openssh-tests)")
	}
	if err := instance.RealAvailable(); err != nil {
		t.Skip("OpenSSH's tests run as a user of the machine: " + err.Error())
	}
	m := startRegressMachine(t, theWorld(t))
	for _, path := range scripts {
		name := strings.TrimSuffix(filepath.Base(path), ".sh")
		if slices.Contains(notTests, name) {
			continue
		}
		if !everything && !slices.Contains(quickScripts, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			row := theTable.row(regressSection, name, "")
			defer row.close(t)
			if why, ok := reasons[name]; ok {
				row.skip(t, why)
			}
			m.runScript(t, row, name, exceptions[name])
		})
	}
	if !everything {
		t.Run("others", func(t *testing.T) { needsEverything(t, "the other scripts") })
	}
}

// notTests are the parts of the suite that tests are made of.
var notTests = []string{"test-exec", "scp-ssh-wrapper", "sshd-log-wrapper", "ssh2putty", "valgrind-unit"}

// readReasons reads lines "name: why it is not run".
func readReasons(path string) (map[string]string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	reasons := map[string]string{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		name, why, ok := strings.Cut(line, ": ")
		if !ok {
			return nil, fmt.Errorf("%s: %q is not a name and a reason", path, line)
		}
		reasons[name] = why
	}
	return reasons, nil
}

// exception is a part of a script that cannot agree, while the rest of it must.
type exception struct {
	complaint *regexp.Regexp // of a whole message of the script's
	reason    string
}

// readExceptions reads lines "name: regular expression: reason".
func readExceptions(path string) (map[string]*exception, error) {
	lines, err := readReasons(path)
	if err != nil {
		return nil, err
	}
	exceptions := map[string]*exception{}
	for name, line := range lines {
		pattern, reason, ok := strings.Cut(line, ": ")
		if !ok {
			return nil, fmt.Errorf("%s: %q is not an expression and a reason", path, line)
		}
		complaint, err := regexp.Compile("^FAIL: (" + pattern + ")$")
		if err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		exceptions[name] = &exception{complaint, reason}
	}
	return exceptions, nil
}

// excuses reports whether all that a failed script complained of is the exception.
func (e *exception) excuses(o *scriptRun) bool {
	if e == nil {
		return false
	}
	text, err := os.ReadFile(o.path("failed-regress.log"))
	if err != nil {
		return false
	}
	complaints := 0
	for line := range strings.Lines(string(text)) {
		line = strings.TrimSpace(line)
		if !strings.HasPrefix(line, "FAIL: ") && !strings.HasPrefix(line, "FATAL: ") {
			continue
		}
		complaints++
		if !e.complaint.MatchString(line) {
			return false
		}
	}
	return complaints > 0
}

// runScript runs one script of the suite in a copy of its own and judges it by its exit status, and by what it complained of where there are exceptions.
func (m *regressMachine) runScript(t *testing.T, row *tableRow, name string, except *exception) {
	t.Helper()
	obj, err := m.prepare(name, freePort(t))
	if err != nil {
		t.Fatal(err)
	}
	m.use(obj)
	cmd := m.inside(obj.dir, "sh", filepath.Join(obj.dir, "test-exec.sh"), obj.dir, filepath.Join(obj.dir, name+".sh"))
	cmd.Env = obj.environ()
	cmd.Dir = obj.dir
	before := m.connections.Load()
	got := run(t, cmd, scriptLimit)
	obj.endLeftovers()
	row.about = fmt.Sprintf("%d connections", m.connections.Load()-before)
	switch {
	case strings.Contains(got.stdout, "SKIPPED: ") || strings.Contains(got.stdout, "skipped"):
		row.about += "; " + lastWord(got.stdout)
	case got.code == 0 && m.connections.Load() == before:
		t.Error("the script went nowhere near the gateway")
	}
	if got.code != 0 && except.excuses(obj) {
		row.about += "; all but this: " + except.reason
		return
	}
	if got.code != 0 {
		t.Errorf("%s\nits log ends:\n%s\nssh's:\n%s\nsshd's:\n%s\nthe gateway's:\n%s", got, tail(obj.path("failed-regress.log"), 2000), tail(obj.path("failed-ssh.log"), 6000),
			tail(obj.path("failed-sshd.log"), 3000), tail(m.world.log.Name(), 3000))
	}
}

// endLeftovers ends what a script has left running: the processes that have the environment it was given.
func (o *scriptRun) endLeftovers() {
	environs, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range environs {
		text, err := os.ReadFile(path)
		if err != nil || !strings.Contains("\x00"+string(text), "\x00BUILDDIR="+o.dir+"\x00") {
			continue
		}
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path))); err == nil {
			killProcess(pid)
		}
	}
}

// lastWord is the line in which a script says what it left out.
func lastWord(stdout string) string {
	for line := range strings.Lines(stdout) {
		if strings.Contains(strings.ToLower(line), "skipp") {
			return strings.TrimSpace(line)
		}
	}
	return ""
}

// scriptRun is one script's copy of the suite.
type scriptRun struct {
	dir  string
	port int
}

func (o *scriptRun) path(name string) string { return filepath.Join(o.dir, name) }

// slowScripts move the suite's data, which is the program that it takes for ssh-agent, in pieces of down to five bytes, each of which waits for its answer. They
// get a smaller one.
var slowScripts = []string{"sftp"}

const smallData = 20000

// environ is what Debian's own runner gives the scripts, and our ways in.
func (o *scriptRun) environ() []string {
	environ := o.commonEnviron()
	if slices.Contains(slowScripts, filepath.Base(o.dir)) {
		environ = append(environ, "TEST_SSH_SSHAGENT="+o.path("through/ssh-agent"))
	}
	return environ
}

func (o *scriptRun) commonEnviron() []string {
	return []string{
		"PATH=/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin", "HOME=/home/" + osUser, "LOGNAME=" + osUser, "SHELL=/bin/bash", "LANG=C",
		"BUILDDIR=" + o.dir, "TEST_SHELL=sh", "TEST_SSH_UNSAFE_PERMISSIONS=1", "TEST_SSH_ECC=yes", fmt.Sprintf("TEST_SSH_PORT=%d", o.port),
		"TEST_SSH_PLINK=" + o.path("through/plink"), "TEST_SSH_PUTTYGEN=" + o.path("through/puttygen"),
		"TEST_SSH_SSH=" + o.path("through/ssh"), "TEST_SSH_SSHD=" + o.path("through/sshd"), "TEST_SSH_SFTPSERVER=" + o.path("through/sftp-server"),
		"TEST_SSH_SSH_CONFOPTS=ProxyCommand /usr/bin/ssh -F " + o.path("through/ssh_config") + " -W ${MACHINE:-" + inetdTarget + "}:22 gateway\n" +
			"KnownHostsCommand /bin/cat " + o.path("through/known_hosts"),
	}
}

// prepare copies the suite and puts beside it what leads through the gateway.
func (m *regressMachine) prepare(name string, port int) (*scriptRun, error) {
	obj := &scriptRun{dir: filepath.Join(m.dir, name), port: port}
	if out, err := exec.Command("cp", "-a", regressSuite, obj.dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("copy the suite: %w: %s", err, out)
	}
	if err := os.Mkdir(obj.path("through"), 0o755); err != nil {
		return nil, err
	}
	key, err := os.ReadFile(m.world.lab.UserKey(person))
	if err != nil {
		return nil, err
	}
	public, err := os.ReadFile(m.world.lab.UserKey(person) + ".pub")
	if err != nil {
		return nil, err
	}
	known, err := m.knownHosts()
	if err != nil {
		return nil, err
	}
	algorithms := ssh.SupportedAlgorithms()
	host, gatewayPort, _ := strings.Cut(m.world.lab.GatewayAddr, ":")
	files := map[string]string{
		// The first key that the scripts offer is one the gateway knows: they find it made already.
		"ssh-ed25519": string(key), "ssh-ed25519.pub": string(public),
		"through/known_hosts": known,
		"through/ssh_config": fmt.Sprintf("Host gateway\nHostName %s\nPort %s\nUser %s\nIdentityFile %s\nIdentitiesOnly yes\nHostKeyAlias gateway\n"+
			"UserKnownHostsFile %s\nLogLevel ERROR\nBatchMode yes\n"+
			"Host target\nHostName %s\nUser %s\nIdentityFile %s\nIdentitiesOnly yes\nUserKnownHostsFile %s\nProxyJump gateway\nLogLevel ERROR\nBatchMode yes\n",
			host, gatewayPort, person, obj.path("ssh-ed25519"), obj.path("through/known_hosts"),
			inetdTarget, osUser, obj.path("ssh-ed25519"), obj.path("through/known_hosts")),
		"through/cipher": lines(algorithms.Ciphers), "through/mac": lines(algorithms.MACs), "through/kex": lines(algorithms.KeyExchanges),
	}
	for file, text := range files {
		if err := os.WriteFile(obj.path(file), []byte(text), 0o600); err != nil {
			return nil, err
		}
	}
	if err := errors.Join(m.keepKeys(obj), m.writePrograms(obj), m.acrossForScp(obj)); err != nil {
		return nil, err
	}
	if out, err := exec.Command("chown", "-R", fmt.Sprintf("%d:%d", firstUserID, firstUserID), obj.dir).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("chown: %w: %s", err, out)
	}
	return obj, nil
}

func lines(words []string) string { return strings.Join(words, "\n") + "\n" }

// knownHosts gives the gateway's authority and, because the scripts call their sshd by a name that no certificate has, its bare host key.
func (m *regressMachine) knownHosts() (string, error) {
	authority, err := os.ReadFile(filepath.Join(m.world.lab.Dir, "known_hosts"))
	if err != nil {
		return "", err
	}
	return string(authority) + "localhost-with-alias,127.0.0.1,::1 " + authorizedLine(m.world.hostKey), nil
}

// keepKeys saves the scripts the time to make keys of every type: they take those that an earlier script has made.
func (m *regressMachine) keepKeys(obj *scriptRun) error {
	types, err := exec.Command("ssh", "-Q", "key-plain").Output()
	if err != nil {
		return err
	}
	earlier := m.made
	m.made = obj
	if earlier == nil {
		return nil
	}
	for keyType := range strings.FieldsSeq(string(types)) {
		for _, name := range []string{keyType, keyType + ".pub"} {
			text, err := os.ReadFile(earlier.path(name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err := errors.Join(err, os.WriteFile(obj.path(name), text, 0o600)); err != nil {
				return err
			}
		}
	}
	return nil
}
