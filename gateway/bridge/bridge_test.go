package bridge

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func TestTheMachineIsAskedForOnceAndOnlyWhenNeeded(t *testing.T) {
	var calls atomic.Int32
	refusal := &authz.Refusal{Reason: authz.ReasonTargetNotConnected, Subject: "i-0abc"}
	r := newRig(t, rigOptions{up: func(context.Context) (*Link, error) {
		calls.Add(1)
		return nil, refusal
	}})
	if ok, _, err := r.client.SendRequest(KeepAliveRequest, true, nil); ok || err != nil || calls.Load() != 0 {
		t.Errorf("keepalive: %v, %v, %d calls", ok, err, calls.Load())
	}
	for range 3 {
		got := refusedOpen(t, r.client, "session", nil)
		if got.Reason != ssh.ConnectionFailed || got.Message != "text: "+refusal.Error() {
			t.Errorf("refused with %v", got)
		}
	}
	if ok, _, err := r.client.SendRequest("tcpip-forward", true, ssh.Marshal(tcpListen{"", 1})); ok || err != nil {
		t.Errorf("forward: %v, %v", ok, err)
	}
	if calls.Load() != 1 {
		t.Errorf("asked %d times", calls.Load())
	}
}

func TestClientLeavesWhileTheMachineIsBeingReached(t *testing.T) {
	entered := make(chan struct{})
	r := newRig(t, rigOptions{up: func(ctx context.Context) (*Link, error) {
		close(entered)
		<-ctx.Done()
		return nil, ctx.Err()
	}})
	go func() { _, _, _ = r.client.OpenChannel("session", nil) }()
	testkit.Receive(t, entered, "the call")
	_ = r.client.Close()
	if err := r.wait(t); err != nil && !errors.Is(err, ErrClientLeft) {
		t.Errorf("ended with %v", err)
	}
}

func TestTheMachinesRefusalIsRelayedAsItIs(t *testing.T) {
	r := newRig(t, rigOptions{onOpen: func(nc ssh.NewChannel) { _ = nc.Reject(ssh.ResourceShortage, "MaxSessions") }})
	got := refusedOpen(t, r.client, "session", nil)
	if got.Reason != ssh.ResourceShortage || got.Message != "MaxSessions" {
		t.Errorf("got %v", got)
	}
}

func TestChannelsAreLimited(t *testing.T) {
	r := newRig(t, rigOptions{onOpen: testkit.CountInput, config: func(c *Config) { c.Limits.Channels = 3 }})
	var open []ssh.Channel
	for range 3 {
		ch, reqs := r.channel(t, "direct-tcpip", directTo("x", 1))
		go ssh.DiscardRequests(reqs)
		open = append(open, ch)
	}
	if got := refusedOpen(t, r.client, "session", nil); got.Reason != ssh.ResourceShortage {
		t.Errorf("got %v", got)
	}
	_ = open[0].Close()
	testkit.Receive(t, r.watch.closed, "a channel's end")
	// The slot is given back a moment after the audit heard of the end.
	testkit.Within(t, "a free slot", func() {
		for {
			ch, reqs, err := r.client.OpenChannel("direct-tcpip", directTo("x", 1))
			if err == nil {
				go ssh.DiscardRequests(reqs)
				_ = ch.Close()
				return
			}
		}
	})
}

func TestOverfilledQueueEndsTheConnection(t *testing.T) {
	r := newRig(t, rigOptions{
		config: func(c *Config) { c.Limits.Queued = 8 },
		onOpen: func(nc ssh.NewChannel) {
			_, reqs, err := nc.Accept()
			if err != nil {
				return
			}
			for range reqs { // never answers
			}
		},
	})
	ch, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	go func() { _, _ = ch.SendRequest("slow@example.org", true, nil) }()
	go func() {
		for range 64 {
			if _, err := ch.SendRequest("more@example.org", false, nil); err != nil {
				return
			}
		}
	}()
	if err := r.wait(t); !errors.Is(err, errTooManyReqs) {
		t.Errorf("ended with %v", err)
	}
}

func TestNoMoreSessionsIsKeptHere(t *testing.T) {
	told := make(chan string, 8)
	r := newRig(t, rigOptions{onOpen: testkit.CountInput, onGlobal: func(_ ssh.Conn, req *ssh.Request) {
		told <- req.Type
		_ = req.Reply(false, nil)
	}})
	first, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	if ok, _, err := r.client.SendRequest(noMoreSessions, true, nil); !ok || err != nil {
		t.Errorf("the promise: %v, %v", ok, err)
	}
	if got := refusedOpen(t, r.client, "session", nil); got.Reason != ssh.Prohibited {
		t.Errorf("got %v", got)
	}
	ch, reqs := r.channel(t, "direct-tcpip", directTo("x", 1)) // forwards go on
	go ssh.DiscardRequests(reqs)
	_, _ = ch.Close(), first.Close()
	if len(told) > 0 {
		t.Errorf("the machine was told %s", <-told)
	}
}

func TestSessionOpenedBeforeThePromiseIsLetIn(t *testing.T) {
	// The bridge finds both in its streams at once, in no order: only the library knew it.
	b := &bridge{cfg: Config{Limits: Limits{}.withDefaults()}, open: map[*channel]struct{}{}, emptied: make(chan struct{})}
	b.closing = true // admit answers at once, and tells the difference by its reason
	for range 50 {   // select chooses at random
		b.noMoreSessions = make(chan struct{})
		open := &fakeOpen{kind: "session"}
		chans, reqs := make(chan ssh.NewChannel, 1), make(chan *ssh.Request, 1)
		chans <- open
		reqs <- &ssh.Request{Type: noMoreSessions}
		close(chans)
		close(reqs)
		in := b.intakeOf(Leg{Chans: chans, Reqs: reqs}, nil, &b.tasks)
		in.asked.handle = func(*ssh.Request) {}
		in.dispatch()
		if open.reason != ssh.ResourceShortage || !b.doorClosed() {
			t.Fatalf("refused with %v, promise kept %v", open.reason, b.doorClosed())
		}
	}
}

// TestSessionOpenedBehindTheAnswerToThePromise: whoever answers the promise may be quicker than whoever keeps it.
func TestSessionOpenedBehindTheAnswerToThePromise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &bridge{
			cfg: Config{Limits: Limits{}.withDefaults()}, ctx: t.Context(),
			open: map[*channel]struct{}{}, emptied: make(chan struct{}), noMoreSessions: make(chan struct{}),
		}
		b.closing = true // admit answers at once, and tells the difference by its reason
		open := &fakeOpen{kind: "session"}
		chans, reqs := make(chan ssh.NewChannel, 1), make(chan *ssh.Request)
		in := b.intakeOf(Leg{Chans: chans, Reqs: reqs}, nil, &b.tasks)
		in.asked.handle = func(req *ssh.Request) {
			b.globalFromClient(req)
			chans <- open
			close(chans)
			close(reqs)
		}
		in.take(&ssh.Request{Type: noMoreSessions})
		synctest.Wait() // the processor is somebody else's between the two steps of dispatch
		in.closeDoor(chans)
		in.dispatch()
		b.tasks.Wait()
		if open.reason != ssh.Prohibited {
			t.Errorf("refused with %v", open.reason)
		}
	})
}

// TestOpensWaitForTheRequestsBeforeThem: `ssh -R …` with ExitOnForwardFailure must hear of a failure before its command has run, as from one sshd.
func TestOpensWaitForTheRequestsBeforeThem(t *testing.T) {
	for range 50 { // select chooses at random
		synctest.Test(t, func(t *testing.T) {
			b := &bridge{
				cfg:  Config{Limits: Limits{}.withDefaults(), Watch: newRecorder(), Text: error.Error, Log: slog.New(slog.DiscardHandler)},
				open: map[*channel]struct{}{}, emptied: make(chan struct{}),
			}
			open := &fakeOpen{kind: "unheard-of"} // refused when its turn has come
			chans, reqs := make(chan ssh.NewChannel, 1), make(chan *ssh.Request, 2)
			chans <- open
			reqs <- &ssh.Request{Type: "tcpip-forward"}
			reqs <- &ssh.Request{Type: "tcpip-forward"}
			close(chans)
			close(reqs)
			answered := 0
			in := b.intakeOf(Leg{Chans: chans, Reqs: reqs}, nil, &b.tasks)
			in.asked.handle = func(*ssh.Request) {
				time.Sleep(time.Second)
				if open.reason != 0 {
					t.Errorf("opened after %d of the two requests before it", answered)
				}
				answered++
			}
			in.dispatch()
			b.tasks.Wait()
			if answered != 2 || open.reason != ssh.UnknownChannelType {
				t.Errorf("%d answered, refused with %v", answered, open.reason)
			}
		})
	}
}

type fakeOpen struct {
	kind   string
	reason ssh.RejectionReason
}

func (*fakeOpen) Accept() (ssh.Channel, <-chan *ssh.Request, error) { return nil, nil, io.EOF }
func (f *fakeOpen) ChannelType() string                             { return f.kind }
func (*fakeOpen) ExtraData() []byte                                 { return nil }
func (f *fakeOpen) Reject(reason ssh.RejectionReason, _ string) error {
	f.reason = reason
	return nil
}

func TestHostKeysOfTheMachineStayThere(t *testing.T) {
	r := newRig(t, rigOptions{onOpen: testkit.CountInput})
	machine := r.reached(t)
	for _, name := range []string{"hostkeys-00@openssh.com", "anything@example.org"} {
		if ok, _, err := machine.SendRequest(name, name != "hostkeys-00@openssh.com", []byte("x")); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	select {
	case req := <-r.global:
		t.Errorf("%s reached the client", req.Type)
	default:
	}
	if ok, _, err := r.client.SendRequest("hostkeys-prove-00@openssh.com", true, []byte("x")); ok || err != nil {
		t.Errorf("prove: %v, %v", ok, err)
	}
}

func TestSshdsKeepaliveInsideASessionIsAnsweredHere(t *testing.T) {
	answer := make(chan error, 1)
	r := newRig(t, rigOptions{onOpen: runProgram(func(ch ssh.Channel, _ string) {
		ok, err := ch.SendRequest(KeepAliveRequest, true, nil)
		if ok {
			err = errors.New("granted")
		}
		answer <- err
		_ = ch.Close()
	})})
	ch, reqs := r.channel(t, "session", nil)
	if _, err := ch.SendRequest("shell", true, nil); err != nil {
		t.Fatal(err)
	}
	if err := testkit.Receive(t, answer, "the answer"); err != nil {
		t.Error(err)
	}
	for req := range reqs {
		t.Errorf("%s reached the client", req.Type)
	}
	_ = ch.Close()
}

// muteAfter is how long a peer may be silent where a test has one that is. The others must not be, and sessions must have begun by then, on a machine that is busy.
const muteAfter = time.Second

func TestMuteLegEndsTheBridge(t *testing.T) {
	for name, want := range map[string]error{"client": errClientMute, "machine": errTargetMute} {
		t.Run(name, func(t *testing.T) {
			mute := make(chan struct{})
			defer close(mute)
			r := newRig(t, rigOptions{mute: mute, config: func(c *Config) {
				c.Limits.Keepalive, c.Limits.KeepaliveTimeout = time.Millisecond, muteAfter
			}})
			if name == "machine" {
				go ssh.DiscardRequests(r.global) // the client answers
				r.reached(t)
			}
			err := r.wait(t)
			if !errors.Is(err, want) {
				t.Errorf("ended with %v, want %v", err, want)
			}
			var refusal *authz.Refusal
			if !errors.As(err, &refusal) || refusal.Reason != authz.ReasonTimeout {
				t.Errorf("%v is not known as something that took too long", err)
			}
		})
	}
}

// TestPersonHearsThatTheMachineIsMute, although the connection to it has not ended by then: an SSM session is closed politely, which takes its time with an agent that
// is gone.
func TestPersonHearsThatTheMachineIsMute(t *testing.T) {
	mute, told := make(chan struct{}), make(chan struct{})
	defer close(mute)
	machine := &scriptedTarget{mute: mute, ready: make(chan struct{}), onOpen: runProgram(func(ch ssh.Channel, _ string) { _, _ = io.Copy(io.Discard, ch) })}
	r := newRig(t, rigOptions{
		config: func(c *Config) {
			c.Limits.Keepalive, c.Limits.KeepaliveTimeout = time.Millisecond, muteAfter
		},
		up: func(context.Context) (*Link, error) {
			link, err := machine.connect(t)
			if err != nil {
				return nil, err
			}
			gone, later := link.Gone, make(chan struct{})
			link.Gone = later
			go func() { <-gone; <-told; close(later) }()
			return link, nil
		},
	})
	go ssh.DiscardRequests(r.global)
	s := r.session(t)
	said, err := s.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start("sleep"); err != nil {
		t.Fatal(err)
	}
	text, err := io.ReadAll(said)
	close(told)
	if !strings.Contains(string(text), errTargetMute.Error()) {
		t.Errorf("the person reads %q, %v", text, err)
	}
}

func TestStalledChannelStallsNoOther(t *testing.T) {
	r := newRig(t, rigOptions{onOpen: runProgram(func(ch ssh.Channel, what string) {
		if strings.HasSuffix(what, "flood") {
			_, err := io.Copy(ch, zeros{})
			_ = err
		} else {
			_, _ = io.Copy(ch, ch)
			exitWith(ch, 0)
		}
		_ = ch.Close()
	})})
	// One that pours out what nobody reads, one that is poured into and does not read.
	flood, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	if ok, err := flood.SendRequest("exec", true, ssh.Marshal(struct{ S string }{"flood"})); !ok {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(flood, zeros{}) }()
	payload := bytes.Repeat([]byte("0123456789abcdef"), 256<<10) // 4 MiB, twice the window
	s := r.session(t)
	s.Stdin = bytes.NewReader(payload)
	testkit.Within(t, "the other channel", func() {
		out, err := s.Output("cat")
		if err != nil || sha256.Sum256(out) != sha256.Sum256(payload) {
			t.Errorf("%d bytes of %d, %v", len(out), len(payload), err)
		}
	})
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func TestTheMachineDiesMidway(t *testing.T) {
	r := newRig(t, rigOptions{
		config: func(c *Config) { c.Limits.EOFHold = testkit.Patience }, // the words wait for the library to say that the connection is lost, but not for ever
		onOpen: runProgram(func(ch ssh.Channel, _ string) { _, _ = io.WriteString(ch, "so far") }),
	})
	s := r.session(t)
	var errs bytes.Buffer
	out, err := s.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	s.Stderr = &errs
	if err := s.Start("work"); err != nil {
		t.Fatal(err)
	}
	part := make([]byte, 6)
	if _, err := io.ReadFull(out, part); err != nil {
		t.Fatal(err)
	}
	_ = r.target.raw.Close()
	var missing *ssh.ExitMissingError
	testkit.Within(t, "the session's end", func() {
		if err := s.Wait(); !errors.As(err, &missing) {
			t.Errorf("session ended with %v", err)
		}
	})
	if !strings.HasPrefix(errs.String(), "text: "+errTargetLeft.Error()) {
		t.Errorf("stderr: %q", errs.String())
	}
	if info := testkit.Receive(t, r.watch.closed, "the channel's end"); !errors.Is(info.Cause, errTargetLeft) {
		t.Errorf("audit: %v", info.Cause)
	}
	if err := r.wait(t); !errors.Is(err, errTargetLeft) {
		t.Errorf("bridge ended with %v", err)
	}
}

func TestCutSessionsAreToldWhy(t *testing.T) {
	r := newRig(t, rigOptions{onOpen: runProgram(func(ssh.Channel, string) {})})
	s := r.session(t)
	var errs bytes.Buffer
	s.Stderr = &errs
	if err := s.Start("sleep"); err != nil {
		t.Fatal(err)
	}
	why := &authz.Refusal{Reason: authz.ReasonRevoked}
	r.cancel(why)
	if err := r.wait(t); !errors.Is(err, why) {
		t.Errorf("ended with %v", err)
	}
	_ = s.Wait()
	if errs.String() != "text: revoked\r\n" {
		t.Errorf("stderr: %q", errs.String())
	}
}

func TestLastBytesOfALeavingClientArrive(t *testing.T) {
	t.Run("that are carried", func(t *testing.T) { lastBytesArrive(t, nil) })
	t.Run("that nobody has begun to carry", func(t *testing.T) { lastBytesArrive(t, acceptsSlowly) })
}

func lastBytesArrive(t *testing.T, wrap func(Leg) Leg) {
	t.Helper()
	const size = 300_000
	got := make(chan int64, 1)
	r := newRig(t, rigOptions{
		wrap:   wrap,
		config: func(c *Config) { c.Limits.EOFHold = time.Millisecond }, // for which a connection that might serve the next client is kept
		onOpen: func(nc ssh.NewChannel) {
			ch, reqs, err := nc.Accept()
			if err != nil {
				return
			}
			go ssh.DiscardRequests(reqs)
			n, _ := io.Copy(io.Discard, ch)
			got <- n
			_ = ch.Close()
		},
	})
	ch, reqs := r.channel(t, "direct-tcpip", directTo("sink", 9))
	go ssh.DiscardRequests(reqs)
	if _, err := ch.Write(make([]byte, size)); err != nil {
		t.Fatal(err)
	}
	_ = ch.Close()
	_, _, _ = r.client.SendRequest(KeepAliveRequest, true, nil) // the gateway has read it all
	_ = r.client.Close()
	if n := testkit.Receive(t, got, "the bytes"); n != size {
		t.Errorf("%d bytes arrived of %d", n, size)
	}
}

// acceptsSlowly lets whoever accepts a channel go on when the client has it, has used it and is gone.
func acceptsSlowly(l Leg) Leg {
	wrapped := make(chan ssh.NewChannel)
	inner := l.Chans
	go func() {
		defer close(wrapped)
		for nc := range inner {
			wrapped <- slowOpen{nc, l.Conn}
		}
	}()
	l.Chans = wrapped
	return l
}

type slowOpen struct {
	ssh.NewChannel
	client ssh.Conn
}

func (s slowOpen) Accept() (ssh.Channel, <-chan *ssh.Request, error) {
	ch, reqs, err := s.NewChannel.Accept()
	_ = s.client.Wait()
	time.Sleep(100 * time.Millisecond) // what must not happen can only be waited for
	return ch, reqs, err
}

func TestStuckBytesOfAClosedChannelAreGivenUp(t *testing.T) {
	closed := make(chan struct{})
	r := newRig(t, rigOptions{
		config: func(c *Config) { c.Limits.Stall = 20 * time.Millisecond },
		onOpen: func(nc ssh.NewChannel) {
			_, reqs, err := nc.Accept()
			if err != nil {
				return
			}
			ssh.DiscardRequests(reqs) // reads no data; ends when the channel is closed
			close(closed)
		},
	})
	ch, reqs := r.channel(t, "direct-tcpip", directTo("stuck", 9))
	go ssh.DiscardRequests(reqs)
	if _, err := ch.Write(make([]byte, 3<<20)); err != nil { // more than one window
		t.Fatal(err)
	}
	_ = ch.Close()
	testkit.Receive(t, closed, "the close")
	testkit.Receive(t, r.watch.closed, "the channel's end")
}

func TestManyQuickCommandsLoseNothing(t *testing.T) {
	const total, atOnce = 2000, 16
	r := newRig(t, rigOptions{onOpen: runProgram(func(ch ssh.Channel, what string) {
		n, _ := strconv.Atoi(strings.TrimPrefix(what, "exec "))
		ways := []string{"status first, output after it", "EOF before status", "no EOF at all"}
		switch n % 4 {
		case 3:
			exitWith(ch, 3)
			_, _ = io.WriteString(ch, answerTo(n))
			_ = ch.Close()
		default:
			endings[ways[n%4]](ch, answerTo(n))
		}
	})})
	numbers := make(chan int)
	go func() {
		defer close(numbers)
		for n := range total {
			numbers <- n
		}
	}()
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for n := range numbers {
				s, err := r.asClient().NewSession()
				if err != nil {
					t.Errorf("session %d: %v", n, err)
					continue
				}
				out, err := s.Output(strconv.Itoa(n))
				var exit *ssh.ExitError
				if !errors.As(err, &exit) || exit.ExitStatus() != 3 || string(out) != answerTo(n) {
					t.Errorf("command %d: %d bytes, %v", n, len(out), err)
				}
			}
		})
	}
	workers.Wait()
}

// answerTo is between nothing and 4 kB.
func answerTo(n int) string { return strings.Repeat(fmt.Sprint(n%10), (n*37)%4096) }
