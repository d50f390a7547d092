package bridge

import (
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/authz"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/internal/testkit"
)

func directTo(host string, port uint32) []byte {
	return ssh.Marshal(tcpOpen{Host: host, Port: port, OriginHost: "127.0.0.1", OriginPort: 5555})
}

func TestHalfCloseTravelsUp(t *testing.T) {
	for kind, payload := range map[string][]byte{
		"direct-tcpip":                   directTo("db.internal", 5432),
		"direct-streamlocal@openssh.com": ssh.Marshal(struct{ Path, A string }{"/run/x.sock", ""}),
	} {
		r := newRig(t, rigOptions{onOpen: testkit.CountInput})
		ch, reqs := r.channel(t, kind, payload)
		go ssh.DiscardRequests(reqs)
		testkit.Within(t, kind, func() {
			_, _ = io.WriteString(ch, "question")
			_ = ch.CloseWrite()
			if answer, _ := io.ReadAll(ch); string(answer) != kind+" got 8 bytes" {
				t.Errorf("answer %q", answer)
			}
		})
		_ = ch.Close()
		if info := testkit.Receive(t, r.watch.closed, "the end"); info.Host == "" || info.In.Load() != 8 || info.FromTarget {
			t.Errorf("audit: %q, %d bytes", info.Destination(), info.In.Load())
		}
	}
}

func TestHalfCloseTravelsDown(t *testing.T) {
	got := make(chan string, 1)
	r := newRig(t, rigOptions{onOpen: func(nc ssh.NewChannel) {
		ch, reqs, err := nc.Accept()
		if err != nil {
			return
		}
		go ssh.DiscardRequests(reqs)
		_, _ = io.WriteString(ch, "greeting")
		_ = ch.CloseWrite()
		in, _ := io.ReadAll(ch)
		got <- string(in)
		_ = ch.Close()
	}})
	ch, reqs := r.channel(t, "direct-tcpip", directTo("db", 1))
	go ssh.DiscardRequests(reqs)
	testkit.Within(t, "the greeting", func() {
		if in, _ := io.ReadAll(ch); string(in) != "greeting" {
			t.Errorf("got %q", in)
		}
	})
	_, _ = io.WriteString(ch, "after EOF")
	_ = ch.CloseWrite()
	if in := testkit.Receive(t, got, "the late bytes"); in != "after EOF" {
		t.Errorf("the machine got %q", in)
	}
	_ = ch.Close()
}

func TestDirectForwardsAreJudged(t *testing.T) {
	socket := ssh.Marshal(struct{ Path, A string }{"/run/x.sock", ""})
	for name, c := range map[string]struct {
		forbid  authz.Action
		kind    string
		payload []byte
		asked   string // what the gate is asked about; empty: it is not
		allowed bool
	}{
		"port":              {kind: "direct-tcpip", payload: directTo("db", 5432), asked: "db:5432", allowed: true},
		"socket":            {kind: "direct-streamlocal@openssh.com", payload: socket, asked: "/run/x.sock:0", allowed: true},
		"port, forbidden":   {forbid: authz.ActionForwardLocal, kind: "direct-tcpip", payload: directTo("::1", 22), asked: "::1:22"},
		"socket, forbidden": {forbid: authz.ActionForwardLocal, kind: "direct-streamlocal@openssh.com", payload: socket, asked: "/run/x.sock:0"},
		"port out of range": {kind: "direct-tcpip", payload: directTo("db", 65536)},
		"malformed":         {kind: "direct-tcpip", payload: []byte("?")},
		"malformed socket":  {kind: "direct-streamlocal@openssh.com", payload: []byte("?")},
	} {
		t.Run(name, func(t *testing.T) {
			var reached atomic.Bool
			r := newRig(t, rigOptions{onOpen: func(nc ssh.NewChannel) {
				reached.Store(true)
				testkit.CountInput(nc)
			}})
			r.gate.forbid = map[authz.Action]bool{c.forbid: true}
			ch, reqs, err := r.client.OpenChannel(c.kind, c.payload)
			if (err == nil) != c.allowed || reached.Load() != c.allowed {
				t.Errorf("got %v, reached %v; want allowed %v", err, reached.Load(), c.allowed)
			}
			want := []string{string(authz.ActionForwardLocal) + " " + c.asked}
			if c.asked == "" {
				want = nil
			}
			if !slices.Equal(r.gate.asked, want) {
				t.Errorf("the gate was asked %q, want %q", r.gate.asked, want)
			}
			if err == nil {
				go ssh.DiscardRequests(reqs)
				_ = ch.Close()
			}
		})
	}
}

func TestUnknownAndMisplacedChannelsAreRefused(t *testing.T) {
	r := newRig(t, rigOptions{onOpen: testkit.CountInput})
	for kind, want := range map[string]ssh.RejectionReason{
		"tun@openssh.com":        ssh.UnknownChannelType,
		"surprise@example.org":   ssh.UnknownChannelType,
		"forwarded-tcpip":        ssh.Prohibited,
		"auth-agent@openssh.com": ssh.Prohibited,
		"x11":                    ssh.Prohibited,
	} {
		if got := refusedOpen(t, r.client, kind, directTo("x", 1)); got.Reason != want {
			t.Errorf("%s: %v, want %v", kind, got.Reason, want)
		}
	}
	select {
	case <-r.target.ready:
		t.Error("a refused channel made a connection to the machine")
	default:
	}
}

// reached makes the upstream connection exist.
func (r *rig) reached(t *testing.T) ssh.Conn {
	t.Helper()
	_, _, _ = r.client.OpenChannel("direct-tcpip", directTo("warm", 1))
	testkit.Receive(t, r.target.ready, "the machine's connection")
	return r.target.conn
}

func TestTheMachineOpensOnlyWhatWasAskedFor(t *testing.T) {
	r := newRig(t, rigOptions{})
	machine := r.reached(t)
	go func() {
		for nc := range r.opens {
			t.Errorf("a %s channel reached the client", nc.ChannelType())
			_ = nc.Reject(ssh.Prohibited, "")
		}
	}()
	socket := ssh.Marshal(struct{ Path, R string }{"/tmp/s", ""})
	for kind, payload := range map[string][]byte{
		"forwarded-tcpip": directTo("localhost", 8080), "forwarded-streamlocal@openssh.com": socket,
		"auth-agent@openssh.com": nil, "agent-connect": nil, "x11": ssh.Marshal(tcpListen{"127.0.0.1", 6010}),
		"session": nil, "direct-tcpip": directTo("localhost", 22),
	} {
		if got := refusedOpen(t, machine, kind, payload); got.Reason != ssh.Prohibited {
			t.Errorf("%s: %v", kind, got)
		}
	}
}

func TestAgentAndX11OpenAfterTheyWereAskedFor(t *testing.T) {
	for request, kind := range map[string]string{"auth-agent-req@openssh.com": "auth-agent@openssh.com", "x11-req": "x11"} {
		t.Run(kind, func(t *testing.T) {
			r := newRig(t, rigOptions{onOpen: func(nc ssh.NewChannel) {
				_, reqs, err := nc.Accept()
				if err == nil {
					go ssh.DiscardRequests(reqs)
				}
			}})
			ch, reqs := r.channel(t, "session", nil)
			go ssh.DiscardRequests(reqs)
			if _, err := ch.SendRequest(request, false, nil); err != nil { // as OpenSSH: no answer wanted
				t.Fatal(err)
			}
			// An answered request behind it: the first one has been handled.
			_, _ = ch.SendRequest("ping@example.org", true, nil)
			go func() { testkit.CountInput(testkit.Receive(t, r.opens, "the open")) }()
			back, backReqs, err := r.target.conn.OpenChannel(kind, ssh.Marshal(tcpListen{"127.0.0.1", 6010}))
			if err != nil {
				t.Fatal(err)
			}
			go ssh.DiscardRequests(backReqs)
			_, _ = io.WriteString(back, "abc")
			_ = back.CloseWrite()
			if answer, _ := io.ReadAll(back); string(answer) != kind+" got 3 bytes" {
				t.Errorf("answer %q", answer)
			}
			_ = back.Close()
			_ = ch.Close()
		})
	}
}

// listening is a machine that grants every forward; port 0 becomes 40000 and up, and the first connection is opened before the answer is sent.
func listening(t *testing.T, connect bool) (func(ssh.Conn, *ssh.Request), *sync.WaitGroup) {
	var next atomic.Uint32
	next.Store(40000)
	var connections sync.WaitGroup
	return func(conn ssh.Conn, req *ssh.Request) {
		at, err := readBind(req)
		if err != nil || strings.HasPrefix(req.Type, "cancel") {
			_ = req.Reply(err == nil, nil)
			return
		}
		var answer []byte
		if at.port == 0 && !at.socket {
			at.port = next.Add(1)
			answer = ssh.Marshal(struct{ Port uint32 }{at.port})
		}
		if connect {
			connections.Go(func() { connectTo(t, conn, at) })
		}
		_ = req.Reply(true, answer)
	}, &connections
}

// connectTo is somebody who connects to what the machine listens on for the client.
func connectTo(t *testing.T, machine ssh.Conn, at bind) {
	kind, payload := "forwarded-tcpip", directTo(at.host, at.port)
	if at.socket {
		kind, payload = "forwarded-streamlocal@openssh.com", ssh.Marshal(struct{ Path, R string }{at.host, ""})
	}
	ch, reqs, err := machine.OpenChannel(kind, payload)
	if err != nil {
		t.Errorf("opening %s for %v: %v", kind, at, err)
		return
	}
	go ssh.DiscardRequests(reqs)
	_, _ = io.WriteString(ch, "hello")
	_ = ch.CloseWrite()
	if answer, _ := io.ReadAll(ch); string(answer) != kind+" got 5 bytes" {
		t.Errorf("answer %q", answer)
	}
	_ = ch.Close()
}

func TestBurstOfRemoteForwardsWithConnectionsAtOnce(t *testing.T) {
	const burst = 50
	grant, connections := listening(t, true)
	r := newRig(t, rigOptions{onGlobal: grant})
	go func() {
		for nc := range r.opens {
			go testkit.CountInput(nc)
		}
	}()
	testkit.Within(t, "the burst", func() {
		var asking sync.WaitGroup
		for i := range burst {
			asking.Go(func() {
				port := uint32(9000 + i)
				if i%2 == 0 {
					port = 0
				}
				ok, answer, err := r.client.SendRequest("tcpip-forward", true, ssh.Marshal(tcpListen{"localhost", port}))
				if !ok || err != nil || (port == 0) != (len(answer) == 4) {
					t.Errorf("forward %d: %v, %q, %v", i, ok, answer, err)
				}
			})
		}
		asking.Wait()
		connections.Wait()
	})
}

func TestClientKnowsTheForwardBeforeItsFirstConnection(t *testing.T) {
	reached := make(chan struct{})
	var connection sync.WaitGroup
	r := newRig(t, rigOptions{onGlobal: func(conn ssh.Conn, req *ssh.Request) {
		connection.Go(func() { connectTo(t, conn, bind{host: "/tmp/s", socket: true}) })
		select {
		case <-reached:
			t.Error("a forwarded connection overtook the answer")
		case <-time.After(100 * time.Millisecond): // what must not happen can only be waited for
		}
		_ = req.Reply(true, nil)
	}})
	go func() {
		for nc := range r.opens {
			close(reached)
			testkit.CountInput(nc)
		}
	}()
	ok, _, err := r.client.SendRequest("streamlocal-forward@openssh.com", true, ssh.Marshal(struct{ Path string }{"/tmp/s"}))
	if !ok || err != nil {
		t.Fatalf("forward: %v, %v", ok, err)
	}
	testkit.Within(t, "the connection", connection.Wait)
}

func TestCancelledForwardAdmitsNothing(t *testing.T) {
	grant, _ := listening(t, false)
	r := newRig(t, rigOptions{onGlobal: grant})
	machine := r.reached(t)
	go func() {
		for nc := range r.opens {
			go testkit.CountInput(nc)
		}
	}()
	listen := ssh.Marshal(tcpListen{"localhost", 8080})
	if ok, _, err := r.client.SendRequest("tcpip-forward", true, listen); !ok {
		t.Fatal(ok, err)
	}
	ch, reqs, err := machine.OpenChannel("forwarded-tcpip", directTo("localhost", 8080))
	if err != nil {
		t.Fatal(err)
	}
	go ssh.DiscardRequests(reqs)
	_ = ch.Close()
	refusedOpen(t, machine, "forwarded-tcpip", directTo("localhost", 8081))
	refusedOpen(t, machine, "forwarded-tcpip", directTo("10.0.0.1", 8080))
	if _, _, err := r.client.SendRequest("cancel-tcpip-forward", false, listen); err != nil { // OpenSSH wants no answer
		t.Fatal(err)
	}
	_, _, _ = r.client.SendRequest(KeepAliveRequest, true, nil) // behind it
	refusedOpen(t, machine, "forwarded-tcpip", directTo("localhost", 8080))
}

func TestRemoteForwardsAreJudged(t *testing.T) {
	for name, c := range map[string]struct {
		forbid  authz.Action
		at      bind
		asked   string
		allowed bool
	}{
		"port":              {at: bind{host: "", port: 0}, asked: ":0", allowed: true},
		"socket":            {at: bind{host: "/tmp/s", socket: true}, asked: "/tmp/s:0", allowed: true},
		"port, forbidden":   {forbid: authz.ActionForwardRemote, at: bind{host: "localhost", port: 1}, asked: "localhost:1"},
		"socket, forbidden": {forbid: authz.ActionForwardRemote, at: bind{host: "/tmp/s", socket: true}, asked: "/tmp/s:0"},
		"port out of range": {at: bind{host: "localhost", port: 65536}},
	} {
		t.Run(name, func(t *testing.T) {
			grant, _ := listening(t, false)
			r := newRig(t, rigOptions{onGlobal: grant})
			r.gate.forbid = map[authz.Action]bool{c.forbid: true}
			request, payload := "tcpip-forward", ssh.Marshal(tcpListen{c.at.host, c.at.port})
			if c.at.socket {
				request, payload = "streamlocal-forward@openssh.com", ssh.Marshal(struct{ Path string }{c.at.host})
			}
			if ok, _, err := r.client.SendRequest(request, true, payload); ok != c.allowed || err != nil {
				t.Errorf("got %v, %v; want %v", ok, err, c.allowed)
			}
			if c.asked == "" {
				return
			}
			if want := string(authz.ActionForwardRemote) + " " + c.asked; !slices.Equal(r.gate.asked, []string{want}) {
				t.Errorf("the gate was asked %q, want %q", r.gate.asked, want)
			}
			want := request + " " + c.at.String()
			if !c.allowed {
				want = request + RefusedSuffix + " " + c.at.String()
			}
			if got := r.watch.globals; len(got) != 1 || got[0] != want {
				t.Errorf("audit: %v, want %s", got, want)
			}
		})
	}
}

func TestRemoteForwardsAreLimited(t *testing.T) {
	grant, _ := listening(t, false)
	r := newRig(t, rigOptions{onGlobal: grant, config: func(c *Config) { c.Limits.Forwards = 2 }})
	for i, want := range []bool{true, true, false} {
		if ok, _, err := r.client.SendRequest("tcpip-forward", true, ssh.Marshal(tcpListen{"", uint32(8000 + i)})); ok != want || err != nil {
			t.Errorf("forward %d: %v, %v; want %v", i, ok, err, want)
		}
	}
}
