package agent_test

import (
	"bufio"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

const modernClient = "1.2.694.0"

var sshDocument = document{kind: "Port", properties: `{"portNumber":"{{ portNumber }}"}`, parameters: map[string]string{"portNumber": "22"}}

// listen is a destination that gives every connection to the test.
func listen(t *testing.T) (addr string, conns chan net.Conn) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	conns = make(chan net.Conn, 16)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_ = conn.SetDeadline(time.Now().Add(2 * patience))
			conns <- conn
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
	})
	return l.Addr().String(), conns
}

func receive[T any](t *testing.T, from chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatal("nothing arrived")
		panic("unreachable")
	}
}

// startPort starts a session to a destination that the test holds.
func startPort(t *testing.T, cfg agent.Config, doc document) (s *service, control, data *peer, conns chan net.Conn) {
	t.Helper()
	s = newService(t)
	addr, conns := listen(t)
	if cfg.PortMap == nil {
		cfg.PortMap = func(string, int) string { return addr }
	}
	_, control = s.startAgent(cfg)
	control.startSession(doc)
	return s, control, s.accept(s.data), conns
}

func TestSSHSession(t *testing.T) {
	_, control, data, conns := startPort(t, agent.Config{}, sshDocument)
	if data.hello["ClientInstanceId"] != machine || data.hello["TokenValue"] != "token-"+sessionID {
		t.Errorf("first frame %v", data.hello)
	}
	state := data.until(ssmproto.AgentSessionState)
	if !strings.Contains(string(state.Payload), `"SessionState":"Connected"`) {
		t.Errorf("state %s", state.Payload)
	}
	request := data.shake(modernClient)
	if !strings.Contains(request, `"Properties":{"portNumber":"22"}`) || !strings.Contains(request, `"AgentVersion":"3.3.987.0"`) {
		t.Errorf("handshake request %s", request)
	}
	conn := receive(t, conns)
	defer conn.Close()
	if _, err := io.WriteString(conn, "SSH-2.0-test\r\n"); err != nil {
		t.Fatal(err)
	}
	if got := data.stream("\n"); got != "SSH-2.0-test\r\n" {
		t.Errorf("banner %q", got)
	}
	data.awaitAck(data.input(ssmproto.PayloadOutput, "hello\n"))
	if line, err := bufio.NewReader(conn).ReadString('\n'); err != nil || line != "hello\n" {
		t.Errorf("the destination read %q, %v", line, err)
	}
	_ = conn.Close() // the destination's end ends the session
	for {
		m, ok := data.next()
		if !ok {
			t.Fatal("no Terminating")
		}
		if m.Type == ssmproto.AgentSessionState {
			if !strings.Contains(string(m.Payload), "Terminating") {
				t.Errorf("state %s", m.Payload)
			}
			break
		}
	}
	if status, output := control.completion(); status != "Success" || output != "" {
		t.Errorf("completion %s %q", status, output)
	}
}

func TestTerminateFlag(t *testing.T) {
	_, control, data, conns := startPort(t, agent.Config{}, sshDocument)
	data.shake(modernClient)
	conn := receive(t, conns)
	defer conn.Close()
	if _, err := io.WriteString(conn, "ready"); err != nil {
		t.Fatal(err)
	}
	data.stream("ready")
	data.awaitAck(data.flag(ssmproto.FlagTerminateSession))
	for m, ok := data.next(); ok; m, ok = data.next() {
		if m.Type == ssmproto.AgentSessionState {
			t.Errorf("a terminated session reports %s", m.Payload)
		}
	}
	if status, _ := control.completion(); status != "Success" {
		t.Errorf("completion %s", status)
	}
	if _, err := conn.Read(make([]byte, 1)); err == nil {
		t.Error("the destination is still connected")
	}
}

func TestRefusedPortIsNoticedLate(t *testing.T) {
	_, control, data, _ := startPort(t, agent.Config{
		PortMap: func(string, int) string { return "" },
		Quirks:  agent.Quirks{CrashNoticed: time.Millisecond},
	}, sshDocument)
	data.shake(modernClient)
	for m, ok := data.next(); ok; m, ok = data.next() {
		repeated := m.Type == ssmproto.OutputStreamData && m.SequenceNumber < data.expect // of the handshake, on a busy machine
		if !repeated && (m.Type == ssmproto.OutputStreamData || m.Type == ssmproto.AgentSessionState) {
			t.Errorf("a crashed worker sent %s %s", m.Type, m.Payload)
		}
	}
	for range 2 { // by plugin and by document
		status, output := control.completion()
		if status != "Failed" || !strings.HasPrefix(output, "document process failed unexpectedly") {
			t.Errorf("completion %s %q", status, output)
		}
	}
}

func TestRefusedPortAtOnceOnRequest(t *testing.T) {
	_, control, data, _ := startPort(t, agent.Config{
		PortMap: func(string, int) string { return "" }, Quirks: agent.Quirks{RefuseAtOnce: true},
	}, sshDocument)
	data.shake(modernClient)
	if status, _ := control.completion(); status != "Failed" {
		t.Errorf("completion %s", status)
	}
}

// A very old agent says nothing about itself: the destination's first words are the first thing the client gets.
func TestNoHandshakeOnRequest(t *testing.T) {
	_, _, data, conns := startPort(t, agent.Config{Quirks: agent.Quirks{NoHandshake: true}}, sshDocument)
	conn := receive(t, conns)
	defer conn.Close()
	if _, err := io.WriteString(conn, "SSH-2.0-old\r\n"); err != nil {
		t.Fatal(err)
	}
	if m, ok := data.output(); !ok || m.SequenceNumber != 0 || string(m.Payload) != "SSH-2.0-old\r\n" {
		t.Errorf("first message %+v", m)
	}
	data.inputUntilAcked("hello")
	expectRead(t, conn, "hello")
}
