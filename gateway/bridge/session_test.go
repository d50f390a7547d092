package bridge

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
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
				text, _ := FirstString(req.Payload)
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
	info := testkit.Receive(t, r.watch.closed, "the channel's end")
	if info.In.Load() != 2 || info.Out.Load() != int64(len("out:exec work:in")+3) || info.ExitStatus == nil || *info.ExitStatus != 7 {
		t.Errorf("audit: in %d, out %d, status %v", info.In.Load(), info.Out.Load(), info.ExitStatus)
	}
}

// endings are the orders in which sshds end a program. Every one must arrive complete.

// frames wraps the client's leg and records what the bridge sends on its channels, in order.

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
		"agent by policy":     {grants: allGrants, forbid: authz.ActionAgentForward, request: "auth-agent-req@openssh.com"},
		"x11 by policy":       {grants: allGrants, forbid: authz.ActionX11, request: "x11-req"},
		"shell":               {grants: allGrants, request: "shell", allowed: true},
		"exec is not shell":   {grants: allGrants, forbid: authz.ActionShell, request: "exec", payload: command, allowed: true},
		"sftp is not exec":    {grants: allGrants, forbid: authz.ActionExec, request: "subsystem", payload: sftp, allowed: true},
		"malformed exec":      {grants: allGrants, request: "exec", payload: []byte{0, 0, 0, 9, 'x'}},
		"malformed env":       {grants: allGrants, request: "env", payload: []byte{1}},
		"exit-status upward":  {grants: allGrants, request: "exit-status", payload: []byte{0, 0, 0, 0}},
		"a stranger's name":   {grants: allGrants, request: "xyz@example.org", allowed: true},
		"PuTTY window timing": {grants: allGrants, request: "winadj@putty.projects.tartarus.org"},
		"keepalive":           {grants: allGrants, request: KeepAliveRequest},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			arrived := make(chan string, 16)
			r := newRig(t, rigOptions{
				config: func(cfg *Config) { cfg.Grants = c.grants },
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
			if got := testkit.Receive(t, status, "the status"); got != "exit-status [0 0 0 255]" {
				t.Errorf("got %s", got)
			}
			_ = ch.Close()
			if info := testkit.Receive(t, r.watch.closed, "the end"); info.Cause == nil || info.ExitStatus != nil {
				t.Errorf("audit: cause %v, status %v", info.Cause, info.ExitStatus)
			}
			if got := r.watch.requests; len(got) != 1 || !strings.HasPrefix(got[0], c.request+RefusedSuffix) {
				t.Errorf("audit: %v", got)
			}
		})
	}
}

// TestForcedCommandWithArgumentsForTheSubsystem: read-only must not become read-write because the subsystem takes no -R.
func TestForcedCommandWithArgumentsForTheSubsystem(t *testing.T) {
	if run, err := forced("internal-sftp -R"); err == nil {
		t.Errorf("runs %+v", run)
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
				config: func(cfg *Config) { cfg.Grants.ForceCommand = c.force },
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
						text, _ := FirstString(req.Payload)
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
			if got := testkit.Receive(t, ran, "the program"); got != c.want {
				t.Errorf("ran %q, want %q", got, c.want)
			}
			if c.env != "" {
				if got := testkit.Receive(t, env, "the environment"); got != originalCommand+"="+c.env {
					t.Errorf("env %q", got)
				}
			}
			_ = ch.Close()
		})
	}
}

func TestNoticeGoesToStderrOfTheFirstSessionOnly(t *testing.T) {
	r := newRig(t, rigOptions{
		config: func(c *Config) { c.Notice = func() string { return "welcome\nfriend" } },
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

func TestExecWithoutReplyOpensTheGate(t *testing.T) {
	// Dropbear asks so. Nobody says whether the program runs; that it was asked for is enough.
	r := newRig(t, rigOptions{onOpen: runProgram(func(ch ssh.Channel, _ string) {
		_, _ = io.Copy(ch, ch)
		exitWith(ch, 0)
		_ = ch.Close()
	})})
	ch, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	if _, err := ch.SendRequest("exec", false, ssh.Marshal(struct{ S string }{"cat"})); err != nil {
		t.Fatal(err)
	}
	_, _ = io.WriteString(ch, "through")
	_ = ch.CloseWrite()
	testkit.Within(t, "the echo", func() {
		if out, _ := io.ReadAll(ch); string(out) != "through" {
			t.Errorf("echo %q", out)
		}
	})
	_ = ch.Close()
}

func TestExitSignalIsCarried(t *testing.T) {
	r := newRig(t, rigOptions{onOpen: runProgram(func(ch ssh.Channel, _ string) {
		body := struct {
			Signal     string
			Core       bool
			Text, Lang string
		}{"KILL", true, "out of memory", "en"}
		_, _ = ch.SendRequest("exit-signal", false, ssh.Marshal(body))
		_ = ch.Close()
	})})
	var exit *ssh.ExitError
	if err := r.session(t).Run("work"); !errors.As(err, &exit) || exit.Signal() != "KILL" || exit.Msg() != "out of memory" {
		t.Errorf("ended with %v", err)
	}
	if info := testkit.Receive(t, r.watch.closed, "the end"); info.ExitSignal != "KILL" || info.ExitStatus != nil {
		t.Errorf("audit: %q, %v", info.ExitSignal, info.ExitStatus)
	}
}

func TestSecretsStayOutOfTheAudit(t *testing.T) {
	r := newRig(t, rigOptions{onOpen: runProgram(func(ssh.Channel, string) {})})
	ch, reqs := r.channel(t, "session", nil)
	go ssh.DiscardRequests(reqs)
	_, _ = ch.SendRequest("env", true, ssh.Marshal(struct{ Name, Value string }{"TOKEN", "hunter2"}))
	_, _ = ch.SendRequest("x11-req", true, ssh.Marshal(struct {
		Single           bool
		Protocol, Cookie string
		Screen           uint32
	}{true, "MIT-MAGIC-COOKIE-1", "c00c1e", 0}))
	_, _ = ch.SendRequest("shell", true, nil)
	_ = ch.Close()
	r.watch.mu.Lock()
	defer r.watch.mu.Unlock()
	if want := []string{"env TOKEN", "x11-req ", "shell "}; !slices.Equal(r.watch.requests, want) {
		t.Errorf("audit: %q", r.watch.requests)
	}
}

// What is judged on sessions is judged by nobody on a forward, so it must not get through there.

func TestSessionRequestsOnAForwardAreRefused(t *testing.T) {
	arrived := make(chan string, 64)
	r := newRig(t, rigOptions{onOpen: func(nc ssh.NewChannel) {
		_, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		for req := range reqs {
			arrived <- req.Type
			_ = req.Reply(true, nil)
		}
	}})
	ch, reqs := r.channel(t, "direct-tcpip", directTo("db", 1))
	go ssh.DiscardRequests(reqs)
	for name := range clientRequests {
		if ok, err := ch.SendRequest(name, true, ssh.Marshal(struct{ S string }{"x"})); ok || err != nil {
			t.Errorf("%s: %v, %v", name, ok, err)
		}
	}
	if ok, err := ch.SendRequest("unknown@example.org", true, nil); !ok || err != nil {
		t.Errorf("unknown: %v, %v", ok, err)
	}
	if got := testkit.Receive(t, arrived, "the unknown one"); got != "unknown@example.org" || len(arrived) > 0 {
		t.Errorf("the machine got %s", got)
	}
	_ = ch.Close()
}
