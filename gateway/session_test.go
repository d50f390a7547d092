package gateway

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
)

// runProgram accepts a session, agrees to everything, and calls program for the first shell, exec or subsystem.
func runProgram(program func(ch ssh.Channel, what string)) func(ssh.NewChannel) {
	return func(nc ssh.NewChannel) {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		for req := range reqs {
			_ = req.Reply(true, nil)
			if action := req.Type; action == "exec" || action == "shell" || action == "subsystem" {
				text, _ := firstString(req.Payload)
				go program(ch, strings.TrimSpace(action+" "+text))
			}
		}
	}
}

func exitWith(ch ssh.Channel, status uint32) {
	_, _ = ch.SendRequest("exit-status", false, ssh.Marshal(struct{ Status uint32 }{status}))
}

func TestExecCarriesStreamsApartAndTheExitCode(t *testing.T) {
	r := newRig(t, rigOptions{onOpen: runProgram(func(ch ssh.Channel, what string) {
		in, _ := io.ReadAll(ch)
		fmt.Fprintf(ch, "out:%s:%s", what, in)
		fmt.Fprint(ch.Stderr(), "err")
		exitWith(ch, 7)
		_ = ch.Close()
	})})
	s := r.session(t)
	var out, errs bytes.Buffer
	s.Stdin, s.Stdout, s.Stderr = strings.NewReader("in"), &out, &errs
	err := s.Run("work")
	var exit *ssh.ExitError
	if !errors.As(err, &exit) || exit.ExitStatus() != 7 {
		t.Errorf("got %v, want exit status 7", err)
	}
	if out.String() != "out:exec work:in" || errs.String() != "err" {
		t.Errorf("stdout %q, stderr %q", out.String(), errs.String())
	}
	info := receive(t, r.watch.closed, "the channel's end")
	if info.in.Load() != 2 || info.out.Load() != int64(len("out:exec work:in")+3) || info.exitStatus == nil || *info.exitStatus != 7 {
		t.Errorf("audit: in %d, out %d, status %v", info.in.Load(), info.out.Load(), info.exitStatus)
	}
}

// endings are the orders in which sshds end a program. Every one must arrive complete.
var endings = map[string]func(ch ssh.Channel, tail string){
	"status first, output after it": func(ch ssh.Channel, tail string) {
		exitWith(ch, 3)
		_, _ = io.WriteString(ch, tail)
		_ = ch.CloseWrite()
		_ = ch.Close()
	},
	"EOF before status": func(ch ssh.Channel, tail string) {
		_, _ = io.WriteString(ch, tail)
		_ = ch.CloseWrite()
		exitWith(ch, 3)
		_ = ch.Close()
	},
	"no EOF at all": func(ch ssh.Channel, tail string) {
		_, _ = io.WriteString(ch, tail)
		exitWith(ch, 3)
		_ = ch.Close()
	},
}

func TestNoEndingLosesOutputOrStatus(t *testing.T) {
	tail := strings.Repeat("tail", 50_000) // 200 kB: several windows' worth of packets
	for name, ending := range endings {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{onOpen: runProgram(func(ch ssh.Channel, _ string) { ending(ch, tail) })})
			s := r.session(t)
			out, err := s.Output("work")
			var exit *ssh.ExitError
			if !errors.As(err, &exit) || exit.ExitStatus() != 3 {
				t.Errorf("got %v, want exit status 3", err)
			}
			if string(out) != tail {
				t.Errorf("got %d bytes of output, want %d", len(out), len(tail))
			}
		})
	}
}

// frames wraps the client's leg and records what the bridge sends on its channels, in order.
type frames struct {
	mu   sync.Mutex
	sent []string
}

func (f *frames) add(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if n := len(f.sent); n == 0 || f.sent[n-1] != what {
		f.sent = append(f.sent, what)
	}
}

func (f *frames) wrap(l leg) leg {
	wrapped := make(chan ssh.NewChannel)
	inner := l.chans
	go func() {
		defer close(wrapped)
		for nc := range inner {
			wrapped <- watchedOpen{nc, f}
		}
	}()
	l.chans = wrapped
	return l
}

type watchedOpen struct {
	ssh.NewChannel
	to *frames
}

func (w watchedOpen) Accept() (ssh.Channel, <-chan *ssh.Request, error) {
	ch, reqs, err := w.NewChannel.Accept()
	return watchedChannel{ch, w.to}, reqs, err
}

type watchedChannel struct {
	ssh.Channel
	to *frames
}

func (w watchedChannel) Write(p []byte) (int, error) {
	w.to.add("data")
	return w.Channel.Write(p)
}

func (w watchedChannel) CloseWrite() error {
	w.to.add("EOF")
	return w.Channel.CloseWrite()
}

func (w watchedChannel) Close() error {
	w.to.add("CLOSE")
	return w.Channel.Close()
}

func (w watchedChannel) SendRequest(name string, wantReply bool, payload []byte) (bool, error) {
	w.to.add(name)
	return w.Channel.SendRequest(name, wantReply, payload)
}

func TestExitStatusPrecedesEOFAndClose(t *testing.T) {
	for name, ending := range endings {
		t.Run(name, func(t *testing.T) {
			var f frames
			r := newRig(t, rigOptions{
				wrap:   f.wrap,
				config: func(c *bridgeConfig) { c.limits.eofHold = rigPatience },
				onOpen: runProgram(func(ch ssh.Channel, _ string) { ending(ch, "tail") }),
			})
			_ = r.session(t).Run("work")
			receive(t, r.watch.closed, "the channel's end")
			f.mu.Lock()
			defer f.mu.Unlock()
			status, eof, end := slices.Index(f.sent, "exit-status"), slices.Index(f.sent, "EOF"), slices.Index(f.sent, "CLOSE")
			if status < 0 || eof < status || end < eof || end != len(f.sent)-1 || !slices.Contains(f.sent, "data") {
				t.Errorf("frames: %v", f.sent)
			}
		})
	}
}

func TestInputWaitsForTheProgram(t *testing.T) {
	// Like sshd: what comes before the program is lost, an EOF included.
	early := make(chan string, 1)
	r := newRig(t, rigOptions{onOpen: func(nc ssh.NewChannel) {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		started := make(chan struct{})
		go func() {
			first := make([]byte, 1)
			n, err := ch.Read(first)
			select {
			case <-started:
				early <- ""
			default:
				early <- fmt.Sprintf("%d bytes, %v", n, err)
			}
			rest, _ := io.ReadAll(ch)
			_, _ = ch.Write(append(first[:n], rest...))
			exitWith(ch, 0)
			_ = ch.Close()
		}()
		for req := range reqs {
			if req.Type == "exec" {
				close(started)
			}
			_ = req.Reply(req.Type == "exec", nil)
		}
	}})
	ch, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	_, _ = io.WriteString(ch, "input")
	_ = ch.CloseWrite()
	if ok, err := ch.SendRequest("subsystem", true, ssh.Marshal(struct{ S string }{"none"})); ok || err != nil {
		t.Fatalf("subsystem: %v, %v; want a refusal", ok, err)
	}
	if ok, err := ch.SendRequest("exec", true, ssh.Marshal(struct{ S string }{"cat"})); !ok || err != nil {
		t.Fatalf("exec: %v, %v", ok, err)
	}
	if got := receive(t, early, "the first byte"); got != "" {
		t.Errorf("arrived before the program: %s", got)
	}
	if out, _ := io.ReadAll(ch); string(out) != "input" {
		t.Errorf("echo %q", out)
	}
	_ = ch.Close()
}

func TestRequestsKeepTheirOrderAndTheirWantReply(t *testing.T) {
	const burst = 32 // twice the library's own queue
	type seen struct {
		name string
		want bool
	}
	got := make(chan seen, burst+3)
	release := make(chan struct{})
	r := newRig(t, rigOptions{onOpen: func(nc ssh.NewChannel) {
		_, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		<-release // not one reply until all have been sent
		for req := range reqs {
			got <- seen{req.Type, req.WantReply}
			_ = req.Reply(true, nil)
		}
	}})
	ch, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	answers := make(chan error, 1)
	go func() {
		for i := range burst {
			if _, err := ch.SendRequest(fmt.Sprintf("unknown-%d@example.org", i), i%2 == 0 && i == burst-2, nil); err != nil {
				answers <- err
				return
			}
		}
		answers <- nil
	}()
	// The rest of the connection goes on meanwhile.
	within(t, "a keepalive beside the burst", func() {
		if ok, _, err := r.client.SendRequest(keepAliveRequest, true, nil); ok || err != nil {
			t.Errorf("keepalive: %v, %v; want a failure", ok, err)
		}
	})
	close(release)
	for i := range burst {
		want := seen{fmt.Sprintf("unknown-%d@example.org", i), i == burst-2}
		if s := receive(t, got, "a request"); s != want {
			t.Fatalf("request %d: got %v, want %v", i, s, want)
		}
	}
	if err := receive(t, answers, "the answers"); err != nil {
		t.Error(err)
	}
	_ = ch.Close()
}

func TestGrantsAndPolicyGuardTheSession(t *testing.T) {
	command := ssh.Marshal(struct{ S string }{"id"})
	sftp := ssh.Marshal(struct{ S string }{"sftp"})
	cases := map[string]struct {
		grants  authz.ChannelGrants
		forbid  authz.Action
		request string
		payload []byte
		allowed bool
	}{
		"pty without grant":   {grants: authz.ChannelGrants{}, request: "pty-req", payload: command},
		"pty":                 {grants: allGrants, request: "pty-req", payload: command, allowed: true},
		"agent without grant": {grants: authz.ChannelGrants{PTY: true}, request: "auth-agent-req@openssh.com"},
		"agent by policy":     {grants: allGrants, forbid: authz.ActionAgentForward, request: "auth-agent-req@openssh.com"},
		"x11 without grant":   {grants: authz.ChannelGrants{PTY: true}, request: "x11-req"},
		"x11 by policy":       {grants: allGrants, forbid: authz.ActionX11, request: "x11-req"},
		"shell":               {grants: allGrants, request: "shell", allowed: true},
		"exec is not shell":   {grants: allGrants, forbid: authz.ActionShell, request: "exec", payload: command, allowed: true},
		"sftp is not exec":    {grants: allGrants, forbid: authz.ActionExec, request: "subsystem", payload: sftp, allowed: true},
		"malformed exec":      {grants: allGrants, request: "exec", payload: []byte{0, 0, 0, 9, 'x'}},
		"malformed env":       {grants: allGrants, request: "env", payload: []byte{1}},
		"exit-status upward":  {grants: allGrants, request: "exit-status", payload: []byte{0, 0, 0, 0}},
		"a stranger's name":   {grants: allGrants, request: "xyz@example.org", allowed: true},
		"PuTTY window timing": {grants: allGrants, request: "winadj@putty.projects.tartarus.org"},
		"keepalive":           {grants: allGrants, request: keepAliveRequest},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			arrived := make(chan string, 16)
			r := newRig(t, rigOptions{
				config: func(cfg *bridgeConfig) { cfg.grants = c.grants },
				onOpen: func(nc ssh.NewChannel) {
					_, reqs, err := nc.Accept()
					if err != nil {
						return
					}
					for req := range reqs {
						arrived <- req.Type
						_ = req.Reply(true, nil)
					}
				},
			})
			r.gate.forbid = map[authz.Action]bool{c.forbid: true}
			ch, reqs := r.channel(t, "session", nil)
			go ssh.DiscardRequests(reqs)
			ok, err := ch.SendRequest(c.request, true, c.payload)
			if ok != c.allowed || err != nil {
				t.Errorf("answer %v, %v; want %v", ok, err, c.allowed)
			}
			if got := len(arrived) > 0; got != c.allowed {
				t.Errorf("reached the machine: %v, want %v", got, c.allowed)
			}
			_ = ch.Close()
		})
	}
}

func TestForbiddenProgramSaysWhyAndNeverRuns(t *testing.T) {
	for name, c := range map[string]struct {
		forbid  authz.Action
		request string
		payload []byte
	}{
		"shell":           {authz.ActionShell, "shell", nil},
		"exec":            {authz.ActionExec, "exec", ssh.Marshal(struct{ S string }{"id"})},
		"sftp":            {authz.ActionSFTP, "subsystem", ssh.Marshal(struct{ S string }{"sftp"})},
		"other subsystem": {authz.ActionExec, "subsystem", ssh.Marshal(struct{ S string }{"netconf"})},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, rigOptions{onOpen: runProgram(func(_ ssh.Channel, what string) { t.Errorf("%s ran", what) })})
			r.gate.forbid = map[authz.Action]bool{c.forbid: true}
			ch, reqs := r.channel(t, "session", nil)
			status := make(chan string, 8)
			go func() {
				defer close(status)
				for req := range reqs {
					status <- fmt.Sprintf("%s %v", req.Type, req.Payload)
				}
			}()
			if _, err := ch.SendRequest(c.request, true, c.payload); err != nil {
				t.Fatal(err)
			}
			if told, _ := io.ReadAll(ch.Stderr()); string(told) != "text: not_permitted subject="+string(c.forbid)+"\r\n" {
				t.Errorf("stderr: %q", told)
			}
			if got := receive(t, status, "the status"); got != "exit-status [0 0 0 255]" {
				t.Errorf("got %s", got)
			}
			_ = ch.Close()
			if info := receive(t, r.watch.closed, "the end"); info.cause == nil || info.exitStatus != nil {
				t.Errorf("audit: cause %v, status %v", info.cause, info.exitStatus)
			}
			if got := r.watch.requests; len(got) != 1 || !strings.HasPrefix(got[0], c.request+refusedSuffix) {
				t.Errorf("audit: %v", got)
			}
		})
	}
}

func TestForcedCommandReplacesEverything(t *testing.T) {
	for _, c := range []struct{ force, request, asked, want, env string }{
		{"/bin/backup", "exec", "rm -rf /", "exec /bin/backup", "rm -rf /"},
		{"/bin/backup", "shell", "", "exec /bin/backup", ""},
		{"/bin/backup", "subsystem", "sftp", "exec /bin/backup", "sftp"},
		{"internal-sftp", "exec", "id", "subsystem sftp", "id"},
	} {
		t.Run(c.force+" for "+c.request, func(t *testing.T) {
			ran, env := make(chan string, 1), make(chan string, 8)
			r := newRig(t, rigOptions{
				config: func(cfg *bridgeConfig) { cfg.grants.ForceCommand = c.force },
				onOpen: func(nc ssh.NewChannel) {
					ch, reqs, err := nc.Accept()
					if err != nil {
						return
					}
					for req := range reqs {
						if req.Type == "env" {
							var pair struct{ Name, Value string }
							_ = ssh.Unmarshal(req.Payload, &pair)
							env <- pair.Name + "=" + pair.Value
							continue
						}
						text, _ := firstString(req.Payload)
						ran <- req.Type + " " + text
						_ = req.Reply(true, nil)
						_ = ch.Close()
					}
				},
			})
			ch, reqs := r.channel(t, "session", nil)
			go ssh.DiscardRequests(reqs)
			forged := ssh.Marshal(struct{ Name, Value string }{originalCommand, "forged"})
			if ok, _ := ch.SendRequest("env", true, forged); ok {
				t.Error("the client could set " + originalCommand)
			}
			var payload []byte
			if c.request != "shell" {
				payload = ssh.Marshal(struct{ S string }{c.asked})
			}
			if ok, err := ch.SendRequest(c.request, true, payload); !ok {
				t.Fatalf("refused, %v", err)
			}
			if got := receive(t, ran, "the program"); got != c.want {
				t.Errorf("ran %q, want %q", got, c.want)
			}
			if c.env != "" {
				if got := receive(t, env, "the environment"); got != originalCommand+"="+c.env {
					t.Errorf("env %q", got)
				}
			}
			_ = ch.Close()
		})
	}
}

func TestNoticeGoesToStderrOfTheFirstSessionOnly(t *testing.T) {
	r := newRig(t, rigOptions{
		config: func(c *bridgeConfig) { c.notice = func() string { return "welcome\nfriend" } },
		onOpen: runProgram(func(ch ssh.Channel, _ string) {
			exitWith(ch, 0)
			_ = ch.Close()
		}),
	})
	for i, want := range []string{"welcome\r\nfriend\r\n", ""} {
		s := r.session(t)
		var errs, out bytes.Buffer
		s.Stderr, s.Stdout = &errs, &out
		if err := s.Run("true"); err != nil {
			t.Fatal(err)
		}
		if errs.String() != want || out.Len() > 0 {
			t.Errorf("session %d: stderr %q, stdout %q", i, errs.String(), out.String())
		}
	}
}
