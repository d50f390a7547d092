package gateway

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/hostkeys"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// Names in the world of these tests.
const (
	worldInstance = "i-0123456789abcdef0"
	worldAccount  = "111122223333"
	worldRole     = "arn:aws:iam::111122223333:role/people/alice"
)

// world is a gateway on loopback with people, one machine behind it that really speaks SSH, and a cloud in memory between them.
type world struct {
	srv     *Server
	addr    string
	cloud   *fakeCloud
	machine *machine
	audit   *heldAudit
	log     *testkit.Buffer
	keys    map[string]ssh.Signer // by person, and more under other names
	hostCA  ssh.Signer
	people  []authz.Person
	served  chan error
}

// worldOptions changes what is unusual in a test.
type worldOptions struct {
	policy string // Cedar; empty: the built-in policy
	limits Limits
	cfg    func(*Config)
	banner string // of the machine
}

func newWorld(t *testing.T, o worldOptions) *world {
	t.Helper()
	w := &world{
		audit: &heldAudit{}, log: &testkit.Buffer{}, hostCA: newKey(t), served: make(chan error, 1),
		keys: map[string]ssh.Signer{"alice": newKey(t), "alice-second": newKey(t), "bob": newKey(t), "stranger": newKey(t)},
	}
	w.machine = newMachine(t, o.banner)
	w.cloud = newFakeCloud(w.machine)
	w.people = []authz.Person{
		{Name: "alice", Keys: []string{authorized(w.keys["alice"]), authorized(w.keys["alice-second"])}, Role: worldRole},
		{Name: "bob", Keys: []string{authorized(w.keys["bob"])}, Role: strings.Replace(worldRole, "alice", "bob", 1)},
	}
	issuer, err := hostkeys.NewIssuer(w.hostCA, newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	cfg := Config{
		Cloud: w.cloud, Directory: w.directory(t), Policy: policyOf(t, o.policy), HostKeys: []ssh.Signer{newKey(t)}, Issuer: issuer,
		Verifier: &hostkeys.Verifier{Store: hostkeys.NewMemoryStore()}, Limits: o.limits, DialPort: w.cloud.dial, Audit: w.audit,
		ProgressAfter: testkit.Patience, // however busy this computer is, nobody has waited for long but where a test says so
		Log:           slog.New(slog.NewTextHandler(w.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	if o.cfg != nil {
		o.cfg(&cfg)
	}
	if w.srv, err = New(cfg); err != nil {
		t.Fatal(err)
	}
	w.listen(t)
	return w
}

// listen starts the server, and ends it with the test; by then nothing of it may be left.
func (w *world) listen(t *testing.T) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = listener.Addr().String()
	ctx, cut := context.WithCancel(context.Background())
	go func() { w.served <- w.srv.Serve(ctx, listener) }()
	t.Cleanup(func() {
		cut()
		if err := testkit.Receive(t, w.served, "the end of Serve"); err != nil {
			t.Errorf("Serve: %v", err)
		}
		w.machine.close()
		if left := w.cloud.open(); left != 0 {
			t.Errorf("%d Session Manager sessions were left open", left)
		}
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
}

func (w *world) directory(t *testing.T) *authz.Directory {
	t.Helper()
	d, err := authz.NewDirectory(authz.DirectoryConfig{People: w.people})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func policyOf(t *testing.T, text string) *authz.Policy {
	t.Helper()
	if text == "" {
		return authz.BuiltinPolicy()
	}
	p, err := authz.LoadPolicy([]authz.PolicyFile{{Name: "test.cedar", Text: []byte(text)}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func newKey(t *testing.T) ssh.Signer {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return signer
}

func authorized(key ssh.Signer) string {
	return strings.TrimSpace(string(ssh.MarshalAuthorizedKey(key.PublicKey())))
}

// login is one client's way of logging in, and what it is told meanwhile.
type login struct {
	user    string
	auth    []ssh.AuthMethod
	ciphers []string // in this order; nil: the library's
	banner  testkit.Buffer
}

func as(user string, keys ...ssh.Signer) *login {
	return &login{user: user, auth: []ssh.AuthMethod{ssh.PublicKeys(keys...)}}
}

func (l *login) config(hostKey ssh.HostKeyCallback) *ssh.ClientConfig {
	return &ssh.ClientConfig{
		Config: ssh.Config{Ciphers: l.ciphers}, User: l.user, Auth: l.auth, HostKeyCallback: hostKey,
		BannerCallback: func(text string) error {
			_, err := io.WriteString(&l.banner, text)
			return err
		},
	}
}

// connect logs in to the gateway.
func (w *world) connect(t *testing.T, l *login) (*ssh.Client, error) {
	t.Helper()
	raw, err := net.DialTimeout("tcp", w.addr, testkit.Patience)
	if err != nil {
		t.Fatal(err)
	}
	conn, chans, reqs, err := ssh.NewClientConn(raw, w.addr, l.config(ssh.InsecureIgnoreHostKey()))
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	client := ssh.NewClient(conn, chans, reqs)
	t.Cleanup(func() { _ = client.Close() })
	return client, nil
}

func (w *world) mustConnect(t *testing.T, l *login) *ssh.Client {
	t.Helper()
	client, err := w.connect(t, l)
	if err != nil {
		t.Fatalf("log in as %s: %v (%s)", l.user, err, l.banner.String())
	}
	return client
}

// jump logs in to a machine through a connection to the gateway, believing host certificates of the CA only.
func (w *world) jump(t *testing.T, outer *ssh.Client, machine string, l *login) (*ssh.Client, error) {
	t.Helper()
	raw, err := outer.Dial("tcp", machine)
	if err != nil {
		return nil, err
	}
	checker := &ssh.CertChecker{IsHostAuthority: func(key ssh.PublicKey, _ string) bool {
		return bytes.Equal(key.Marshal(), w.hostCA.PublicKey().Marshal())
	}}
	config := l.config(checker.CheckHostKey)
	config.HostKeyAlgorithms = []string{ssh.CertAlgoED25519v01}
	conn, chans, reqs, err := ssh.NewClientConn(raw, machine, config)
	if err != nil {
		_ = raw.Close()
		return nil, err
	}
	client := ssh.NewClient(conn, chans, reqs)
	t.Cleanup(func() { _ = client.Close() })
	return client, nil
}

// run runs a command and gives what it printed and its status.
func run(t *testing.T, client *ssh.Client, command string) (stdout, stderr string, status int) {
	t.Helper()
	session, err := client.NewSession()
	if err != nil {
		t.Fatalf("open a session: %v", err)
	}
	defer func() { _ = session.Close() }()
	var out, errs bytes.Buffer
	session.Stdout, session.Stderr = &out, &errs
	var exit *ssh.ExitError
	testkit.Within(t, "the command "+command, func() { err = session.Run(command) })
	switch {
	case errors.As(err, &exit):
		status = exit.ExitStatus()
	case err != nil:
		t.Fatalf("run %s: %v (stderr %q)", command, err, errs.String())
	}
	return out.String(), errs.String(), status
}

// fakeCloud is AWS: names, keys that were pushed, sessions that are open.
type fakeCloud struct {
	machine *machine

	mu        sync.Mutex
	instances map[string]*authz.Instance
	resolved  []string
	roles     []authz.Role // of StartPort and PushKey
	reasons   []string
	pushed    []string // osUser@instance
	sessions  map[string]int
	shells    []string // Session Manager shells and commands that were started
	next      int

	refuse map[string]error // by call: resolve, push, start, dial, role
	before func(call string)
	port   func(port int) (net.Conn, error) // instead of the machine's sshd
	text   string                           // console
	others []*authz.Instance                // listed beside the machine
}

func newFakeCloud(m *machine) *fakeCloud {
	instance := &authz.Instance{
		ID: worldInstance, Partition: "aws", Account: worldAccount, Region: "eu-west-1", Name: "web-1", State: "running", Tags: map[string]string{"Env": "dev"},
	}
	return &fakeCloud{
		machine: m, instances: map[string]*authz.Instance{worldInstance: instance, "web-1": instance}, sessions: map[string]int{}, refuse: map[string]error{},
	}
}

func (f *fakeCloud) Resolve(ctx context.Context, name string) (*authz.Instance, error) {
	f.call(ctx, "resolve")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.resolved = append(f.resolved, name)
	if err := f.refuse["resolve"]; err != nil {
		return nil, err
	}
	if found := f.instances[name]; found != nil {
		return found, nil
	}
	return nil, &authz.Refusal{Reason: authz.ReasonUnknownTarget, Subject: name}
}

func (f *fakeCloud) PushKey(ctx context.Context, role authz.Role, on *authz.Instance, osUser string, key ssh.PublicKey) error {
	f.call(ctx, "push")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.roles = append(f.roles, role)
	if err := f.refuse["push"]; err != nil {
		return err
	}
	f.pushed = append(f.pushed, osUser+"@"+on.ID)
	f.machine.trust(osUser, key)
	return nil
}

func (f *fakeCloud) StartPort(ctx context.Context, role authz.Role, _ *authz.Instance, port int, reason string) (ssmproto.Grant, error) {
	f.call(ctx, "start")
	f.mu.Lock()
	defer f.mu.Unlock()
	f.roles = append(f.roles, role)
	f.reasons = append(f.reasons, reason)
	if err := f.refuse["start"]; err != nil {
		return ssmproto.Grant{}, err
	}
	f.next++
	id := fmt.Sprintf("%s-%016x", role.SessionName, f.next)
	f.sessions[id] = port
	return ssmproto.Grant{SessionID: id, StreamURL: "wss://" + strconv.Itoa(port)}, nil
}

// CheckRole makes the cloud a RoleChecker.
func (f *fakeCloud) CheckRole(context.Context, authz.Role, *authz.Instance) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.refuse["role"]
}

func (f *fakeCloud) ConsoleOutput(ctx context.Context, _ authz.Role, _ *authz.Instance) (string, error) {
	f.call(ctx, "console")
	return f.text, nil
}

func (f *fakeCloud) List(context.Context) ([]*authz.Instance, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]*authz.Instance{f.instances[worldInstance]}, f.others...), nil
}

// call lets a test hold a call up.
func (f *fakeCloud) call(_ context.Context, name string) {
	f.mu.Lock()
	before := f.before
	f.mu.Unlock()
	if before != nil {
		before(name)
	}
}

// dial is Config.DialPort: the machine's sshd, or what the test put in its place.
func (f *fakeCloud) dial(_ context.Context, grant ssmproto.Grant, _ bool) (net.Conn, error) {
	f.mu.Lock()
	port, instead, err := f.sessions[grant.SessionID], f.port, f.refuse["dial"]
	f.mu.Unlock()
	var raw net.Conn
	switch {
	case err != nil:
	case instead != nil:
		raw, err = instead(port)
	default:
		raw, err = net.Dial("tcp", f.machine.addr)
	}
	if err != nil {
		f.ended(grant.SessionID)
		return nil, err
	}
	return &countedConn{Conn: raw, ended: func() { f.ended(grant.SessionID) }}, nil
}

func (f *fakeCloud) ended(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.sessions, id)
}

func (f *fakeCloud) open() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.sessions)
}

func (f *fakeCloud) refuseCall(call string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.refuse[call] = err
}

// countedConn notices that it was closed.
type countedConn struct {
	net.Conn
	once  sync.Once
	ended func()
}

func (c *countedConn) Close() error {
	c.once.Do(c.ended)
	return c.Conn.Close()
}

// machine is an sshd that lets in who has a key pushed, and runs a few commands.
type machine struct {
	addr       string
	listener   net.Listener
	hostKey    ssh.Signer
	tasks      sync.WaitGroup
	banner     string
	rekeyAfter atomic.Uint64 // bytes after which it wants new session keys; 0: the library's default

	mu         sync.Mutex
	hold       chan struct{}       // until it is closed nobody is logged in; nil: at once
	unfinished int                 // connections that have not logged in
	crowd      int                 // the most of them there have been
	trusted    map[string][]string // key blobs by user
	offered    int                 // keys that were tried
	trustCA    ssh.PublicKey       // whose certificates let in
	shown      []*ssh.Certificate
	conns      []net.Conn
}

func newMachine(t *testing.T, banner string) *machine {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{addr: listener.Addr().String(), listener: listener, hostKey: newKey(t), banner: banner, trusted: map[string][]string{}}
	m.tasks.Go(func() {
		for {
			raw, err := listener.Accept()
			if err != nil {
				return
			}
			m.mu.Lock()
			m.conns = append(m.conns, raw)
			m.mu.Unlock()
			m.tasks.Go(func() { m.serve(raw) })
		}
	})
	return m
}

func (m *machine) close() {
	_ = m.listener.Close()
	m.cut()
	m.tasks.Wait()
}

// cut ends all connections at once.
func (m *machine) cut() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, raw := range m.conns {
		_ = raw.Close()
	}
}

func (m *machine) trust(user string, key ssh.PublicKey) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.trusted[user] = append(m.trusted[user], string(key.Marshal()))
}

func (m *machine) serve(raw net.Conn) {
	defer func() { _ = raw.Close() }()
	config := &ssh.ServerConfig{PublicKeyCallback: func(conn ssh.ConnMetadata, key ssh.PublicKey) (*ssh.Permissions, error) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.offered++
		if cert, ok := key.(*ssh.Certificate); ok {
			m.shown = append(m.shown, cert)
			return certified(conn, cert, m.trustCA)
		}
		if !slices.Contains(m.trusted[conn.User()], string(key.Marshal())) {
			return nil, errors.New("not pushed")
		}
		return &ssh.Permissions{}, nil
	}}
	config.RekeyThreshold = m.rekeyAfter.Load()
	if m.banner != "" {
		config.BannerCallback = func(ssh.ConnMetadata) string { return m.banner }
	}
	config.AddHostKey(m.hostKey)
	m.mu.Lock()
	hold := m.hold
	m.unfinished++
	m.crowd = max(m.crowd, m.unfinished)
	m.mu.Unlock()
	if hold != nil {
		<-hold
	}
	finished := sync.OnceFunc(func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.unfinished--
	})
	config.AuthLogCallback = func(_ ssh.ConnMetadata, _ string, err error) {
		if err == nil { // before the client is told
			finished()
		}
	}
	conn, chans, reqs, err := ssh.NewServerConn(raw, config)
	finished()
	if err != nil {
		return
	}
	var sessions sync.WaitGroup
	sessions.Go(func() { ssh.DiscardRequests(reqs) })
	for open := range chans {
		if open.ChannelType() != "session" {
			_ = open.Reject(ssh.Prohibited, "sessions only")
			continue
		}
		ch, reqs, err := open.Accept()
		if err != nil {
			continue
		}
		sessions.Go(func() { m.session(ch, reqs, conn.User()) })
	}
	sessions.Wait()
}

func (m *machine) session(ch ssh.Channel, reqs <-chan *ssh.Request, user string) {
	defer func() { _ = ch.Close() }()
	var before []string // what was asked for before the program
	for req := range reqs {
		if req.Type == "shell" {
			_ = req.Reply(true, nil)
			go ssh.DiscardRequests(reqs)
			_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{runShell(ch, user, before)}))
			return
		}
		if req.Type != "exec" {
			before = append(before, req.Type)
			if req.Type == "pty-req" {
				var terminal terminalRequest
				_ = ssh.Unmarshal(req.Payload, &terminal)
				before = append(before, fmt.Sprintf("%s %dx%d", terminal.Term, terminal.Columns, terminal.Rows))
			}
			_ = req.Reply(req.Type == "pty-req", nil)
			continue
		}
		var exec struct{ Command string }
		_ = ssh.Unmarshal(req.Payload, &exec)
		_ = req.Reply(true, nil)
		status := runCommand(ch, exec.Command, user)
		_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
		return
	}
}

// runShell tells who is there and what was asked for, then echoes lines up to "exit STATUS".
func runShell(ch ssh.Channel, user string, before []string) uint32 {
	_, _ = fmt.Fprintf(ch, "%s here, after %s\r\n", user, strings.Join(before, ", "))
	lines := bufio.NewScanner(ch)
	for lines.Scan() {
		if status, found := strings.CutPrefix(lines.Text(), "exit "); found {
			number, _ := strconv.ParseUint(status, 10, 32)
			return uint32(number)
		}
		_, _ = fmt.Fprintf(ch, "echo %s\r\n", lines.Text())
	}
	return 0
}

func runCommand(ch ssh.Channel, command, user string) uint32 {
	verb, rest, _ := strings.Cut(command, " ")
	switch verb {
	case "cat":
		_, _ = io.Copy(ch, ch)
	case "whoami":
		_, _ = io.WriteString(ch, user+"\n")
	case "exit":
		status, _ := strconv.ParseUint(rest, 10, 32)
		return uint32(status)
	case "stderr":
		_, _ = io.WriteString(ch.Stderr(), rest)
	}
	return 0
}

// heldAudit keeps events, and lets tests wait for one.
type heldAudit struct {
	mu     sync.Mutex
	events []Event
	more   chan struct{}
}

func (h *heldAudit) Record(e Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.events = append(h.events, e)
	if h.more != nil {
		close(h.more)
		h.more = nil
	}
}

// wait gives the first event that matches, now or later.
func (h *heldAudit) wait(t *testing.T, what string, matches func(Event) bool) Event {
	t.Helper()
	limit := time.After(testkit.Patience)
	for {
		h.mu.Lock()
		if i := slices.IndexFunc(h.events, matches); i >= 0 {
			defer h.mu.Unlock()
			return h.events[i]
		}
		if h.more == nil {
			h.more = make(chan struct{})
		}
		more := h.more
		h.mu.Unlock()
		select {
		case <-more:
		case <-limit:
			t.Fatalf("no event %s in %+v", what, h.events)
		}
	}
}

func (h *heldAudit) waitFor(t *testing.T, event string) Event {
	t.Helper()
	return h.wait(t, event, func(e Event) bool { return e.Event == event })
}
