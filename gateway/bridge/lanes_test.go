package bridge

import (
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

// expectLanes starts programs one after the other, all of which go on running, and compares where they went.
func expectLanes(t *testing.T, l *lanesRig, programs []string, want []int) []*running {
	t.Helper()
	var all []*running
	var lanes []int
	for _, what := range programs {
		r := l.start(t, what)
		all, lanes = append(all, r), append(lanes, r.lane)
	}
	if !slices.Equal(lanes, want) {
		t.Errorf("%q run on lanes %v, want %v", programs, lanes, want)
	}
	return all
}

func TestTypingSharesNoLaneWithAnythingElse(t *testing.T) {
	for name, test := range map[string]struct {
		programs []string
		lanes    []int
	}{
		"one shell":                       {[]string{"pty"}, []int{0}},
		"one transfer":                    {[]string{"sftp"}, []int{0}},
		"shells go together":              {[]string{"pty", "pty", "pty"}, []int{0, 0, 0}},
		"a transfer beside a shell":       {[]string{"pty", "sftp"}, []int{0, 1}},
		"a shell beside a transfer":       {[]string{"scp -f /etc", "pty"}, []int{0, 1}},
		"a command beside a shell":        {[]string{"pty", "tar c"}, []int{0, 1}},
		"commands go together":            {[]string{"true", "git", "tar c"}, []int{0, 0, 0}},
		"each transfer on its own":        {[]string{"sftp", "scp -t x", "rsync --server ."}, []int{0, 1, 2}},
		"everything at once":              {[]string{"pty", "sftp", "make", "pty", "make"}, []int{0, 1, 2, 0, 2}},
		"a shell finds the other shells":  {[]string{"make", "pty", "sftp", "pty"}, []int{0, 1, 2, 1}},
		"a copier by its path":            {[]string{"sh", "/usr/bin/rsync --server -l ."}, []int{0, 1}},
		"what only looks like a transfer": {[]string{"sh", "rsync a b", "scp x y:"}, []int{0, 0, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			l := newLanesRig(t, 0, nil)
			for _, r := range expectLanes(t, l, test.programs, test.lanes) {
				r.echo(t)
				r.stop(t)
			}
		})
	}
}

func TestOneLaneIsSharedByAll(t *testing.T) {
	l := newLanesRig(t, 0, func(limits *Limits) { limits.Lanes = 1 })
	expectLanes(t, l, []string{"pty", "sftp", "make", "scp -f x"}, []int{0, 0, 0, 0})
}

func TestLanesAreUsedAgain(t *testing.T) {
	l := newLanesRig(t, 0, nil)
	expectLanes(t, l, []string{"pty"}, []int{0})
	for range 5 {
		r := l.start(t, "sftp")
		if r.lane != 1 {
			t.Errorf("a transfer went to lane %d", r.lane)
		}
		r.stop(t)
		testkit.Receive(t, l.watch.closed, "the end of its channel")
	}
}

func TestWithoutRoomTheLeastBusyLaneIsShared(t *testing.T) {
	l := newLanesRig(t, 0, func(limits *Limits) { limits.Lanes = 2 })
	expectLanes(t, l, []string{"pty", "sftp", "sftp", "make", "pty"}, []int{0, 1, 1, 1, 0})
}

// TestASessionMovesWithAllThatWasAskedOfIt: the lane is known with the program only, after the terminal and the variables.
func TestASessionMovesWithAllThatWasAskedOfIt(t *testing.T) {
	l := newLanesRig(t, 0, nil)
	busy := l.start(t, "make")
	s := l.session(t)
	if err := s.Setenv("LANG", "C"); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.SendRequest("auth-agent-req@openssh.com", true, nil); !ok || err != nil {
		t.Fatal(ok, err)
	}
	if err := s.RequestPty("vt100", 24, 80, nil); err != nil {
		t.Fatal(err)
	}
	if err := s.WindowChange(40, 100); err != nil {
		t.Fatal(err)
	}
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Shell(); err != nil {
		t.Fatal(err)
	}
	if lane := readLane(t, out); lane != 1 {
		t.Errorf("the shell runs on lane %d", lane)
	}
	want := []string{"env LANG", "auth-agent-req@openssh.com", "pty-req vt100", "window-change", "shell"}
	if got := l.askedOn(1); !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("the new lane was asked for %q, want %q", got, want)
	}
	if slices.Contains(l.askedOn(0), "shell") {
		t.Error("the shell was started where the session began, too")
	}
	testkit.Eventually(t, "the end of the session where it began", func() bool {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.held[0] == 1
	})
	busy.echo(t)
}

func TestMoreSessionsThanTheMachineTakesOnOneConnection(t *testing.T) {
	l := newLanesRig(t, 10, nil)
	for range 25 {
		l.start(t, "true")
	}
	if got := l.opened(); got != 3 {
		t.Errorf("25 sessions of 10 each are on %d lanes", got)
	}
}

func TestTheMachinesOwnWordsWhenAllLanesAreFull(t *testing.T) {
	l := newLanesRig(t, 2, func(limits *Limits) { limits.Lanes = 2 })
	var all []*running
	for range 4 {
		all = append(all, l.start(t, "true"))
	}
	_, err := l.tryStart(t, "true")
	var refused *ssh.OpenChannelError
	if !errors.As(err, &refused) || refused.Message != "open failed" || refused.Reason != ssh.ConnectionFailed {
		t.Fatalf("the fifth session: %v", err)
	}
	all[0].stop(t)
	testkit.Eventually(t, "room for another session", func() bool {
		_, err := l.tryStart(t, "true")
		return err == nil
	})
}

func TestALostLaneEndsWhatItCarriedAndNothingElse(t *testing.T) {
	l := newLanesRig(t, 0, func(limits *Limits) { limits.EOFHold = testkit.Patience })
	all := expectLanes(t, l, []string{"pty", "scp -f x"}, []int{0, 1})
	shell, transfer := all[0], all[1]
	_ = l.target(1).raw.Close()
	testkit.Within(t, "the end of the transfer", func() { _ = transfer.Wait() })
	if got := transfer.stderr.String(); !strings.HasPrefix(got, "text: "+errTargetLeft.Error()) {
		t.Errorf("told %q", got)
	}
	shell.echo(t)
	if again := l.start(t, "sftp"); again.lane != 2 {
		t.Errorf("the next transfer went to lane %d", again.lane)
	}
	_ = l.target(2).raw.Close()
	_ = l.target(0).raw.Close()
	if err := l.wait(t); !errors.Is(err, errTargetLeft) {
		t.Errorf("without any lane the bridge ended with %v", err)
	}
}

func TestAMuteLaneIsGivenUpAlone(t *testing.T) {
	mute := make(chan struct{})
	defer close(mute)
	l := newLanesRig(t, 0, func(limits *Limits) {
		limits.Keepalive, limits.KeepaliveTimeout = time.Millisecond, muteAfter
	})
	shell := l.start(t, "pty")
	l.mu.Lock()
	l.muteNext = mute
	l.mu.Unlock()
	transfer := l.start(t, "scp -t x")
	testkit.Within(t, "the end of the transfer", func() { _ = transfer.Wait() })
	shell.echo(t)
}

func TestIdleLanesAreClosedButTheLast(t *testing.T) {
	l := newLanesRig(t, 0, func(limits *Limits) { limits.LaneIdle = 20 * time.Millisecond })
	all := expectLanes(t, l, []string{"pty", "sftp", "sftp"}, []int{0, 1, 2})
	all[1].stop(t)
	testkit.Within(t, "the end of an idle lane", func() { _ = l.target(1).conn.Wait() })
	all[2].echo(t)
	all[2].stop(t)
	testkit.Within(t, "the end of an idle lane", func() { _ = l.target(2).conn.Wait() })
	all[0].echo(t)
	all[0].stop(t)
	for range all {
		testkit.Receive(t, l.watch.closed, "the end of a channel")
	}
	if next := l.start(t, "sftp"); next.lane != 0 {
		t.Errorf("the last lane was closed: a transfer went to lane %d", next.lane)
	}
}

func TestALaneThatCannotBeHadIsDoneWithout(t *testing.T) {
	l := newLanesRig(t, 0, nil)
	shell := l.start(t, "pty")
	l.mu.Lock()
	l.refuse = errors.New("no further lane")
	l.mu.Unlock()
	if transfer := l.start(t, "sftp"); transfer.lane != 0 {
		t.Errorf("the transfer went to lane %d", transfer.lane)
	}
	shell.echo(t)
}

func TestALaneThatTakesLongIsNotWaitedFor(t *testing.T) {
	l := newLanesRig(t, 0, func(limits *Limits) { limits.LaneWait = 20 * time.Millisecond })
	l.start(t, "pty")
	slow := make(chan struct{})
	l.mu.Lock()
	l.slow = slow
	l.mu.Unlock()
	if transfer := l.start(t, "sftp"); transfer.lane != 0 {
		t.Errorf("the transfer went to lane %d", transfer.lane)
	}
	close(slow)
	testkit.Eventually(t, "the lane", func() bool { return l.opened() == 2 })
	testkit.Eventually(t, "a transfer on it", func() bool { return l.start(t, "sftp").lane == 1 })
}

// TestRemoteForwardsStayOnTheirLane, also when it is idle otherwise, and its loss ends the connection: nothing else tells a client that nobody listens any more.
func TestRemoteForwardsStayOnTheirLane(t *testing.T) {
	l := newLanesRig(t, 0, func(limits *Limits) { limits.LaneIdle = 20 * time.Millisecond })
	listen := func(kind string, port uint32) {
		t.Helper()
		if ok, _, err := l.client.SendRequest(kind, true, ssh.Marshal(tcpListen{"localhost", port})); !ok || err != nil {
			t.Fatalf("%s: %v, %v", kind, ok, err)
		}
	}
	listen("tcpip-forward", 7001)
	all := expectLanes(t, l, []string{"pty", "sftp", "make"}, []int{0, 1, 2})
	all[2].stop(t)
	testkit.Within(t, "the end of an idle lane", func() { _ = l.target(2).conn.Wait() })
	listen("tcpip-forward", 7002) // beside a terminal and a transfer, what comes in by it would be in the way
	if got := l.askedOn(3); !slices.Contains(got, "tcpip-forward") {
		t.Errorf("a lane of its own was asked for %q", got)
	}
	listen("cancel-tcpip-forward", 7001)
	if got := l.askedOn(0); !slices.Contains(got, "cancel-tcpip-forward") {
		t.Errorf("the forward's own lane was asked for %q", got)
	}
	all[0].stop(t)
	testkit.Within(t, "the end of an idle lane", func() { _ = l.target(0).conn.Wait() })
	all[1].echo(t)
	_ = l.target(3).raw.Close()
	if err := l.wait(t); !errors.Is(err, errTargetLeft) {
		t.Errorf("ended with %v", err)
	}
}

// TestAForwardThatMovesMuchIsLeftAlone: what comes after it goes elsewhere, without waiting, since a lane was opened when the flow was seen.
func TestAForwardThatMovesMuchIsLeftAlone(t *testing.T) {
	l := newLanesRig(t, 0, nil)
	shell := l.start(t, "pty")
	forward, lane := l.forward(t)
	if lane == shell.lane {
		t.Error("a forward is where somebody types")
	}
	go func() { _, _ = io.CopyN(forward, zeros{}, 4*bulkBytes) }()
	if _, err := io.CopyN(io.Discard, forward, 4*bulkBytes); err != nil {
		t.Fatal(err)
	}
	if _, next := l.forward(t); next == lane || next == shell.lane {
		t.Errorf("the next forward is on lane %d, the flow on %d, the shell on %d", next, lane, shell.lane)
	}
	shell.echo(t)
}

// TestOneLaneForAllForwardsBesideAShell: the first of them opens it, all wait for it, and none opens another.
func TestOneLaneForAllForwardsBesideAShell(t *testing.T) {
	l := newLanesRig(t, 0, nil)
	shell := l.start(t, "pty")
	var together sync.WaitGroup
	for range 12 {
		together.Go(func() {
			ch, reqs, err := l.client.OpenChannel("direct-tcpip", directTo("db", 5432))
			if err != nil {
				t.Errorf("a forward: %v", err)
				return
			}
			go ssh.DiscardRequests(reqs)
			line := make([]byte, 2)
			if _, err := io.ReadFull(ch, line); err != nil || string(line) != "1\n" {
				t.Errorf("a forward is on lane %q (%v)", line, err)
			}
		})
	}
	together.Wait()
	if got := l.opened(); got != 2 {
		t.Errorf("%d lanes are open", got)
	}
	shell.echo(t)
}

// TestForwardsShareAShellsLaneWhereTheyMust: a site that wants no further lanes has working forwards all the same.
func TestForwardsShareAShellsLaneWhereTheyMust(t *testing.T) {
	l := newLanesRig(t, 0, nil)
	shell := l.start(t, "pty")
	l.mu.Lock()
	l.refuse = errors.New("no further lane")
	l.mu.Unlock()
	for range 2 {
		if _, lane := l.forward(t); lane != shell.lane {
			t.Errorf("a forward is on lane %d", lane)
		}
	}
}
