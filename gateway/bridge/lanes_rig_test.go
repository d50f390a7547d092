package bridge

import (
	"context"
	"errors"
	"io"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pkg/sftp"
	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// lanesRig is a bridge that may have several connections to a machine. Programs there say on which of them they run, and end when the client does.
type lanesRig struct {
	*rig
	most int // sessions on one connection; 0: any

	realFiles bool // sftp is an SFTP server on this machine's files

	mu      sync.Mutex
	targets []*scriptedTarget // in the order in which the lanes were opened
	asked   [][]string        // requests by lane
	held    []int             // sessions by lane
	refuse  error             // what the next attempt gets
	slow    chan struct{}     // what attempts wait for, if not nil

	muteNext <-chan struct{} // makes the next lane answer no global request while it is open
}

func newLanesRig(t *testing.T, most int, change func(*Limits)) *lanesRig {
	t.Helper()
	l := &lanesRig{most: most}
	l.rig = newRig(t, rigOptions{
		up: func(ctx context.Context) (*Link, error) { return l.connect(ctx, t) },
		config: func(c *Config) {
			c.Limits.Lanes = 8
			c.Limits.LaneWait = 20 * time.Second // a machine that is busy with other tests is no reason to share
			if change != nil {
				change(&c.Limits)
			}
		},
	})
	go ssh.DiscardRequests(l.global)
	return l
}

func (l *lanesRig) connect(ctx context.Context, t *testing.T) (*Link, error) {
	l.mu.Lock()
	refuse, slow := l.refuse, l.slow
	l.mu.Unlock()
	if slow != nil {
		select {
		case <-slow:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if refuse != nil {
		return nil, refuse
	}
	l.mu.Lock()
	at := len(l.targets)
	target := &scriptedTarget{mute: l.muteNext, ready: make(chan struct{}), onOpen: func(nc ssh.NewChannel) { l.open(at, nc) }}
	target.onGlobal = func(_ ssh.Conn, req *ssh.Request) {
		l.note(at, req.Type)
		_ = req.Reply(true, nil)
	}
	l.muteNext = nil
	l.targets, l.asked, l.held = append(l.targets, target), append(l.asked, nil), append(l.held, 0)
	l.mu.Unlock()
	return target.connect(t)
}

// open is the machine's answer to a new channel.
func (l *lanesRig) open(at int, nc ssh.NewChannel) {
	l.mu.Lock()
	full := nc.ChannelType() == "session" && l.most > 0 && l.held[at] >= l.most
	if !full {
		l.held[at]++
	}
	l.mu.Unlock()
	if full {
		_ = nc.Reject(ssh.ConnectionFailed, "open failed")
		return
	}
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.held[at]--
	}()
	ch, reqs, err := nc.Accept()
	if err != nil {
		return
	}
	defer func() { _ = ch.Close() }()
	if nc.ChannelType() != "session" {
		go ssh.DiscardRequests(reqs)
		_, _ = io.WriteString(ch, strconv.Itoa(at)+"\n")
		_, _ = io.Copy(ch, ch)
		return
	}
	for req := range reqs {
		text, _ := FirstString(req.Payload)
		l.note(at, strings.TrimSpace(req.Type+" "+text))
		_ = req.Reply(true, nil)
		if req.Type == "subsystem" && l.realFiles {
			go serveFiles(ch)
			continue
		}
		if req.Type == "exec" || req.Type == "shell" || req.Type == "subsystem" {
			go func() {
				_, _ = io.WriteString(ch, strconv.Itoa(at)+"\n")
				_, _ = io.Copy(ch, ch)
				exitWith(ch, 0)
				_ = ch.Close()
			}()
		}
	}
}

// serveFiles is the sftp subsystem.
func serveFiles(ch ssh.Channel) {
	defer func() { _ = ch.Close() }()
	server, err := sftp.NewServer(ch)
	if err != nil {
		return
	}
	_ = server.Serve()
	exitWith(ch, 0)
}

func (l *lanesRig) note(at int, what string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.asked[at] = append(l.asked[at], what)
}

func (l *lanesRig) askedOn(at int) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.asked[at])
}

func (l *lanesRig) opened() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.targets)
}

func (l *lanesRig) target(at int) *scriptedTarget {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.targets[at]
}

// running is a session of the client's in which something runs.
type running struct {
	*ssh.Session
	what   string
	lane   int
	in     io.WriteCloser
	out    io.Reader
	stderr testkit.Buffer
}

// start runs something, and tells the lane on which that happens. "pty" is a shell on a terminal, "sftp" the subsystem, anything else a command.
func (l *lanesRig) start(t *testing.T, what string) *running {
	t.Helper()
	r, err := l.tryStart(t, what)
	if err != nil {
		t.Fatalf("start %s: %v", what, err)
	}
	return r
}

func (l *lanesRig) tryStart(t *testing.T, what string) (*running, error) {
	t.Helper()
	s, err := l.asClient().NewSession()
	if err != nil {
		return nil, err
	}
	r := &running{Session: s, what: what}
	s.Stderr = &r.stderr
	if r.in, err = s.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	if r.out, err = s.StdoutPipe(); err != nil {
		t.Fatal(err)
	}
	switch what {
	case "pty":
		if err = s.RequestPty("vt100", 24, 80, nil); err == nil {
			err = s.Shell()
		}
	case "sftp":
		err = s.RequestSubsystem("sftp")
	default:
		err = s.Start(what)
	}
	if err != nil {
		return nil, err
	}
	r.lane = readLane(t, r.out)
	return r, nil
}

func readLane(t *testing.T, from io.Reader) int {
	t.Helper()
	line := make([]byte, 2)
	testkit.Within(t, "the number of the lane", func() { _, _ = io.ReadFull(from, line) })
	lane, err := strconv.Atoi(strings.TrimSpace(string(line)))
	if err != nil {
		t.Fatalf("read %q for a lane", line)
	}
	return lane
}

// forward opens a forward and tells its lane.
func (l *lanesRig) forward(t *testing.T) (ssh.Channel, int) {
	t.Helper()
	ch, reqs := l.channel(t, "direct-tcpip", directTo("db", 5432))
	go ssh.DiscardRequests(reqs)
	return ch, readLane(t, ch)
}

// echo checks that the program still answers.
func (r *running) echo(t *testing.T) {
	t.Helper()
	got := make([]byte, 4)
	testkit.Within(t, "an echo", func() {
		_, _ = r.in.Write([]byte("echo"))
		_, _ = io.ReadFull(r.out, got)
	})
	if string(got) != "echo" {
		t.Errorf("echo is %q", got)
	}
}

// stop ends the program in good order.
func (r *running) stop(t *testing.T) {
	t.Helper()
	_ = r.in.Close()
	testkit.Within(t, "the end of the program", func() {
		if r.what == "sftp" { // the library does not wait for subsystems
			_, _ = io.Copy(io.Discard, r.out)
			_ = r.Close()
			return
		}
		if err := r.Wait(); err != nil && !errors.Is(err, io.EOF) {
			t.Errorf("ended with %v", err)
		}
	})
}
