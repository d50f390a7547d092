package agent_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/xtaci/smux"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/agent"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

var forwardDocument = document{
	kind:       "Port",
	properties: `{"portNumber":"{{ portNumber }}","type":"LocalPortForwarding","localPortNumber":"{{localPortNumber}}"}`,
	parameters: map[string]string{"portNumber": "5432", "localPortNumber": "0"},
}

var remoteDocument = document{
	kind:       "Port",
	properties: `{"portNumber":"{{ portNumber }}","type":"LocalPortForwarding","localPortNumber":"0","host":"{{ host }}"}`,
	parameters: map[string]string{"portNumber": "5432", "host": "db.internal"},
}

// muxClient is the client's end of an smux connection over a data channel. It reads the peer in a goroutine of its own.
type muxClient struct {
	*smux.Session
	opening sync.Mutex
	pipe    net.Conn
	acked   chan int64 // numbers of our first messages
	flags   chan string
	wait    sync.WaitGroup
}

// OpenStream lets no output through meanwhile: smux throws away what comes for a stream whose SYN it has sent and which it has not yet entered in its books.
// The stream has a limit, so that nobody waits for ever for what has been lost.
func (m *muxClient) OpenStream() (*smux.Stream, error) {
	m.opening.Lock()
	defer m.opening.Unlock()
	stream, err := m.Session.OpenStream()
	if err == nil {
		err = stream.SetDeadline(time.Now().Add(2 * patience))
	}
	return stream, err
}

func (m *muxClient) take(output []byte) {
	m.opening.Lock()
	defer m.opening.Unlock()
	_, _ = m.pipe.Write(output)
}

func (p *peer) mux() *muxClient {
	p.t.Helper()
	ours, theirs := net.Pipe()
	m := &muxClient{pipe: ours, acked: make(chan int64, 16), flags: make(chan string, 16)}
	config := smux.DefaultConfig()
	config.KeepAliveDisabled = true
	var err error
	if m.Session, err = smux.Client(theirs, config); err != nil {
		p.t.Fatal(err)
	}
	m.wait.Go(func() { p.muxOutput(m) })
	m.wait.Go(func() {
		buffer := make([]byte, 16<<10) // the agent takes payloads of any size
		for send := p.inputFirst; ; send = p.inputNext {
			n, err := ours.Read(buffer)
			if err != nil {
				return
			}
			send(m, string(buffer[:n]))
		}
	})
	p.t.Cleanup(func() {
		_ = m.Close()
		_ = ours.Close()
		_ = p.ws.Close()
		m.wait.Wait()
	})
	return m
}

// muxOutput hands output to smux until the connection ends. No failure may stop the test from here: this is not its goroutine.
func (p *peer) muxOutput(m *muxClient) {
	for message := range p.messages {
		if ack, err := ssmproto.ParseAck(message.Payload); message.Type == ssmproto.Acknowledge && err == nil {
			select {
			case m.acked <- ack.SequenceNumber:
			default: // only the first is waited for
			}
		}
		if message.Type != ssmproto.OutputStreamData {
			continue
		}
		p.ack(message)
		if message.SequenceNumber != p.expect {
			continue // it comes again
		}
		p.expect++
		switch message.PayloadType {
		case ssmproto.PayloadOutput:
			m.take(message.Payload)
		case ssmproto.PayloadFlag:
			m.flags <- string(message.Payload)
		}
	}
	_ = m.pipe.Close()
	close(m.acked)
}

// inputFirst repeats the first message until the agent takes it: between the end of the handshake and the start of the port it takes none (SPEC.md §4.4).
func (p *peer) inputFirst(m *muxClient, payload string) {
	seq := p.input(ssmproto.PayloadOutput, payload)
	retry := time.NewTicker(100 * time.Millisecond)
	defer retry.Stop()
	for {
		select {
		case acked, more := <-m.acked:
			if !more || acked == seq {
				return
			}
		case <-retry.C:
			p.inputAs(seq, ssmproto.PayloadOutput, payload)
		}
	}
}

func (p *peer) inputNext(_ *muxClient, payload string) { p.input(ssmproto.PayloadOutput, payload) }

func TestMuxCarriesManyStreams(t *testing.T) {
	_, control, data, conns := startPort(t, agent.Config{Quirks: agent.Quirks{Fast: true}}, forwardDocument)
	if request := data.shake(modernClient); !strings.Contains(request, `"type":"LocalPortForwarding"`) || !strings.Contains(request, `"localPortNumber":"0"`) {
		t.Errorf("handshake request %s", request)
	}
	m := data.mux()
	payload := make([]byte, 1<<20)
	if _, err := rand.Read(payload); err != nil {
		t.Fatal(err)
	}
	var wait sync.WaitGroup
	for range 3 {
		stream, err := m.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		conn := receive(t, conns)
		wait.Go(func() { // the destination sends back what it gets
			_, _ = io.CopyN(conn, conn, int64(len(payload)))
			_ = conn.Close()
		})
		wait.Go(func() { _, _ = stream.Write(payload) })
		wait.Go(func() {
			got, err := io.ReadAll(stream)
			if err != nil || !bytes.Equal(got, payload) {
				t.Errorf("%d of %d bytes came back, %v", len(got), len(payload), err)
			}
		})
	}
	wait.Wait()
	data.flag(ssmproto.FlagTerminateSession)
	if status, _ := control.completion(); status != "Success" {
		t.Errorf("completion %s", status)
	}
}

func TestMuxRefusalIsFlagThenEnd(t *testing.T) {
	_, _, data, _ := startPort(t, agent.Config{PortMap: func(string, int) string { return "" }}, forwardDocument)
	data.shake(modernClient)
	m := data.mux()
	stream, err := m.OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	if n, err := stream.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("read %d, %v", n, err)
	}
	if flag := receive(t, m.flags); flag != "\x00\x00\x00\x03" {
		t.Errorf("flag %q", flag)
	}
}

// The client's FIN closes the destination altogether; the protocol has no half-close.
func TestMuxFinClosesDestination(t *testing.T) {
	_, _, data, conns := startPort(t, agent.Config{}, forwardDocument)
	data.shake(modernClient)
	stream, err := data.mux().OpenStream()
	if err != nil {
		t.Fatal(err)
	}
	conn := receive(t, conns)
	defer conn.Close()
	if _, err := stream.Write([]byte("last words")); err != nil {
		t.Fatal(err)
	}
	if err := stream.Close(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(conn); err != nil || string(got) != "last words" {
		t.Errorf("the destination read %q, %v", got, err)
	}
}

// Which side is old decides that there is no multiplexing; then one connection follows another.
func TestBasicForwardingRedials(t *testing.T) {
	for name, test := range map[string]struct{ client, agent string }{
		"old client": {"1.1.69.0", ""},
		"old agent":  {modernClient, "3.0.196.0"},
	} {
		t.Run(name, func(t *testing.T) {
			_, control, data, conns := startPort(t, agent.Config{AgentVersion: test.agent, Quirks: agent.Quirks{DialFirst: true, KeepEarlyData: true}}, forwardDocument)
			data.shake(test.client)
			for turn, text := range []string{"first", "second", "third"} {
				if turn > 0 {
					data.inputUntilAcked(text)
				}
				conn := receive(t, conns)
				if turn == 0 {
					data.inputUntilAcked(text)
				}
				got := make([]byte, len(text))
				if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
					t.Errorf("read %q, %v", got, err)
				}
				if _, err := io.WriteString(conn, "re: "+text); err != nil {
					t.Fatal(err)
				}
				data.stream("re: " + text)
				data.awaitAck(data.flag(ssmproto.FlagDisconnectToPort))
				if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
					t.Errorf("after DisconnectToPort: %v", err)
				}
				_ = conn.Close()
			}
			data.awaitAck(data.flag(ssmproto.FlagTerminateSession))
			if status, _ := control.completion(); status != "Success" {
				t.Errorf("completion %s", status)
			}
		})
	}
}

// inputUntilAcked repeats one message, as a client does, until the agent takes it.
func (p *peer) inputUntilAcked(text string) {
	p.t.Helper()
	seq := p.inSeq
	p.inSeq++
	limit := time.After(patience)
	for {
		p.inputAs(seq, ssmproto.PayloadOutput, text)
		retry := time.After(100 * time.Millisecond)
	waiting:
		for {
			select {
			case m, ok := <-p.messages:
				if !ok {
					p.t.Fatal("the connection ended")
				}
				if m.Type == ssmproto.Acknowledge && acknowledgedSeq(p.t, m) == seq {
					return
				}
			case <-retry:
				break waiting
			case <-limit:
				p.t.Fatal("not acknowledged")
			}
		}
	}
}

func TestRemoteHost(t *testing.T) {
	addr, conns := listen(t)
	var asked []string
	lookups := 0
	_, _, data, _ := startPort(t, agent.Config{
		Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			lookups++
			if host != "db.internal" {
				return nil, errors.New("unknown host")
			}
			return []netip.Addr{netip.MustParseAddr("10.0.0.1"), netip.MustParseAddr("10.0.0.2")}, nil
		},
		PortMap: func(host string, port int) string {
			asked = append(asked, host)
			if host == "10.0.0.2" && port == 5432 {
				return addr
			}
			return ""
		},
	}, remoteDocument)
	data.shake(modernClient)
	m := data.mux()
	for range 2 {
		stream, err := m.OpenStream()
		if err != nil {
			t.Fatal(err)
		}
		conn := receive(t, conns)
		if _, err := io.WriteString(conn, "hi"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(stream, make([]byte, 2)); err != nil {
			t.Fatal(err)
		}
		_ = conn.Close()
	}
	if got := strings.Join(asked, " "); got != "10.0.0.1 10.0.0.2 10.0.0.1 10.0.0.2" || lookups != 1 {
		t.Errorf("dialed %s, resolved %d times", got, lookups)
	}
}

func TestDeniedRemoteHost(t *testing.T) {
	for _, address := range []string{"169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"} {
		_, control, data, _ := startPort(t, agent.Config{
			Lookup: func(context.Context, string) ([]netip.Addr, error) {
				return []netip.Addr{netip.MustParseAddr(address)}, nil
			},
		}, remoteDocument)
		data.shake(modernClient) // succeeds first
		for _, ok := data.output(); ok; _, ok = data.output() {
		}
		status, output := control.completion()
		if status != "Failed" || output != "Forwarding to IP address db.internal is forbidden." {
			t.Errorf("%s: %s %q", address, status, output)
		}
	}
}
