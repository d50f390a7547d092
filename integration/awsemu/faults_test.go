package awsemu_test

import (
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ssm"
	"github.com/gorilla/websocket"

	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/integration/awsemu"
	"github.com/ssm-ssh-gateway/ssm-ssh-gateway/ssmproto"
)

// withFaults starts a talk in which the given faults hold for the session.
func withFaults(t *testing.T, f awsemu.Faults) (*awsemu.Server, *talk) {
	t.Helper()
	s := start(t)
	talk := startTalk(t, s, person(t, s, "alice", "shop"))
	if err := s.SetFaults(awsemu.Scope{Session: talk.id}, f); err != nil {
		t.Fatal(err)
	}
	return s, talk
}

// flow sends n numbered messages from client to agent and gives the numbers that arrive before a last one that no dice touch.
func flow(t *testing.T, s *awsemu.Server, talk *talk, n int) []int64 {
	t.Helper()
	for i := range n {
		talk.client.send(ssmproto.InputStreamData, int64(i), "x")
	}
	talk.client.barrier()
	if err := s.SetFaults(awsemu.Scope{Session: talk.id}, awsemu.Faults{}); err != nil {
		t.Fatal(err)
	}
	talk.client.send(ssmproto.InputStreamData, -1, "x")
	var got []int64
	for {
		m := talk.agent.receive()
		switch {
		case m.Type != ssmproto.InputStreamData:
			got = append(got, -2)
		case m.SequenceNumber == -1:
			return got
		default:
			got = append(got, m.SequenceNumber)
		}
	}
}

var errPong = errors.New("pong")

// barrier returns when the emulator has read everything that p has sent: it answers a ping only then. p cannot receive afterwards.
func (p *peer) barrier() {
	p.t.Helper()
	p.ws.SetPongHandler(func(string) error { return errPong })
	if err := p.ws.WriteControl(websocket.PingMessage, []byte("keepalive"), time.Now().Add(10*time.Second)); err != nil {
		p.t.Fatal(err)
	}
	if err := p.ended(); !errors.Is(err, errPong) {
		p.t.Fatal(err)
	}
}

func TestDropLosesItsShareAndRepeats(t *testing.T) {
	faults := awsemu.Faults{Seed: 7, ToAgent: awsemu.Link{Drop: 0.3}}
	s, talk := withFaults(t, faults)
	first := flow(t, s, talk, 400)
	if lost := 400 - len(first); lost < 60 || lost > 180 || int64(lost) != info(t, s, talk.id).ToAgent.Lost {
		t.Errorf("lost %d of 400 messages at a chance of 0.3, counted %d", lost, info(t, s, talk.id).ToAgent.Lost)
	}
	s2, talk2 := withFaults(t, faults)
	second := flow(t, s2, talk2, 400)
	if len(first) != len(second) {
		t.Fatalf("the same seed lost %d and then %d messages", 400-len(first), 400-len(second))
	}
	for i := range first {
		if first[i] != second[i] {
			t.Fatalf("the same seed let message %d and then %d through", first[i], second[i])
		}
	}
}

func TestDropAcksLeavesData(t *testing.T) {
	s, talk := withFaults(t, awsemu.Faults{ToAgent: awsemu.Link{DropAcks: 1}})
	talk.client.send(ssmproto.Acknowledge, 0, "lost")
	talk.client.send(ssmproto.InputStreamData, 1, "kept")
	if m := talk.agent.receive(); m.Type != ssmproto.InputStreamData {
		t.Errorf("received %s", m.Type)
	}
	if got := info(t, s, talk.id).ToAgent.Lost; got != 1 {
		t.Errorf("counted %d lost messages", got)
	}
}

func TestDuplicateRepeatsAtOnce(t *testing.T) {
	s, talk := withFaults(t, awsemu.Faults{ToAgent: awsemu.Link{Duplicate: 1}})
	got := flow(t, s, talk, 3)
	if want := []int64{0, 0, 1, 1, 2, 2}; !equal(got, want) {
		t.Errorf("received %v, want %v", got, want)
	}
}

func TestReorderSwapsNeighbors(t *testing.T) {
	s, talk := withFaults(t, awsemu.Faults{ToAgent: awsemu.Link{Reorder: 1}})
	got := flow(t, s, talk, 4)
	if want := []int64{1, 0, 3, 2}; !equal(got, want) {
		t.Errorf("received %v, want %v", got, want)
	}
}

func TestGreaseIsAnUnknownType(t *testing.T) {
	s, talk := withFaults(t, awsemu.Faults{ToAgent: awsemu.Link{Grease: 1}})
	got := flow(t, s, talk, 2)
	if want := []int64{0, -2, 1, -2}; !equal(got, want) {
		t.Errorf("received %v, want %v (-2 is of another type)", got, want)
	}
}

func equal(a, b []int64) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i] != b[i] {
			return false
		}
	}
	return true
}

// TestGreaseSparesHandshakeComplete pins the one place where AWS's plugin dies of any message (SPEC.md §4.4).
func TestGreaseSparesHandshakeComplete(t *testing.T) {
	_, talk := withFaults(t, awsemu.Faults{ToClient: awsemu.Link{Grease: 1}})
	m := ssmproto.Message{
		Type: ssmproto.OutputStreamData, SchemaVersion: 1, Created: time.Now(), PayloadType: ssmproto.PayloadHandshakeComplete, Payload: []byte("{}"),
	}
	if err := talk.agent.ws.WriteMessage(websocket.BinaryMessage, m.Append(nil)); err != nil {
		t.Fatal(err)
	}
	talk.agent.send(ssmproto.OutputStreamData, 2, "x")
	talk.client.expect(ssmproto.OutputStreamData)
	talk.client.expect(ssmproto.OutputStreamData)
	talk.client.expect("emulator_grease")
}

func TestStallHoldsUntilCleared(t *testing.T) {
	s, talk := withFaults(t, awsemu.Faults{ToAgent: awsemu.Link{Stall: true}})
	talk.client.send(ssmproto.InputStreamData, 0, "x")
	talk.client.barrier()
	if got := info(t, s, talk.id).ToAgent.Messages; got != 0 {
		t.Errorf("%d messages came through a stalled lane", got)
	}
	if err := s.SetFaults(awsemu.Scope{Session: talk.id}, awsemu.Faults{}); err != nil {
		t.Fatal(err)
	}
	talk.agent.expect(ssmproto.InputStreamData)
}

// TestDelayTakesItsTime looks at the lower bound only.
func TestDelayTakesItsTime(t *testing.T) {
	const delay = 50 * time.Millisecond
	_, talk := withFaults(t, awsemu.Faults{ToAgent: awsemu.Link{Delay: awsemu.Duration(delay)}})
	sent := time.Now()
	talk.client.send(ssmproto.InputStreamData, 0, "x")
	talk.agent.expect(ssmproto.InputStreamData)
	if took := time.Since(sent); took < delay {
		t.Errorf("took %v, sooner than the delay of %v", took, delay)
	}
}

func TestOversizedClientPayloadIsLost(t *testing.T) {
	s, talk := withFaults(t, awsemu.Faults{MaxClientPayload: 4})
	talk.client.send(ssmproto.InputStreamData, 0, "12345")
	talk.client.send(ssmproto.InputStreamData, 1, "1234")
	if m := talk.agent.receive(); m.SequenceNumber != 1 {
		t.Errorf("received message %d", m.SequenceNumber)
	}
	if got := info(t, s, talk.id).ToAgent.Lost; got != 1 {
		t.Errorf("counted %d lost messages", got)
	}
}

func TestCutAfterMessagesAndBytes(t *testing.T) {
	for name, faults := range map[string]awsemu.Faults{
		"messages": {CutAfterMessages: 3}, "bytes": {CutAfterBytes: 300}, "agent": {CutAfterMessages: 3, CutSide: awsemu.SideAgent},
	} {
		t.Run(name, func(t *testing.T) {
			s, talk := withFaults(t, faults)
			for i := range int64(3) {
				talk.client.send(ssmproto.InputStreamData, i, "x")
			}
			cut, side := talk.client, "client"
			if faults.CutSide == awsemu.SideAgent {
				cut, side = talk.agent, "agent"
			}
			err := cut.ended()
			if websocket.IsCloseError(err, websocket.CloseNormalClosure) {
				t.Errorf("the %s was closed politely: %v", side, err)
			}
			waitInfo(t, s, talk.id, func(i awsemu.SessionInfo) bool { return i.ClientOnline == (side == "agent") })
		})
	}
}

func TestByeIsClose1000(t *testing.T) {
	s := start(t, func(c *config) { c.Faults = awsemu.Faults{ByeEvery: awsemu.Duration(time.Millisecond)} })
	talk := startTalkOf(t, s, person(t, s, "alice", "shop"))
	err := talk.client.ended()
	var closed *websocket.CloseError
	if !errors.As(err, &closed) || closed.Code != websocket.CloseNormalClosure || closed.Text != "Bye" {
		t.Errorf("the client sees %v, want 1000 Bye", err)
	}
}

// TestRateLimitPausesAndCloses sends three times the limit for as long as the WebSocket lives.
func TestRateLimitPausesAndCloses(t *testing.T) {
	s, talk := withFaults(t, awsemu.Faults{RateLimit: 100})
	stopped := make(chan struct{})
	go func() { // until the emulator closes the WebSocket
		defer close(stopped)
		tick := time.NewTicker(time.Millisecond)
		defer tick.Stop()
		m := ssmproto.Message{Type: ssmproto.InputStreamData, SchemaVersion: 1, Created: time.Now(), Payload: []byte("x")}
		frame := m.Append(nil)
		for range tick.C {
			if talk.client.ws.WriteMessage(websocket.BinaryMessage, frame) != nil {
				return
			}
		}
	}()
	for talk.agent.receive().Type != ssmproto.PausePublication {
	}
	if err := talk.client.ended(); err == nil {
		t.Error("the client's WebSocket lives on")
	}
	<-stopped
	waitInfo(t, s, talk.id, func(i awsemu.SessionInfo) bool { return !i.ClientOnline })
}

func TestStartPublicationComesFirst(t *testing.T) {
	s := start(t, func(c *config) { c.Faults = awsemu.Faults{StartPublication: true} })
	talk := startTalk(t, s, person(t, s, "alice", "shop"))
	talk.client.expect(ssmproto.StartPublication)
	talk.agent.expect(ssmproto.StartPublication)
}

// TestChannelClosedForms checks both header lengths byte by byte, since parsers of the field misread one of them.
func TestChannelClosedForms(t *testing.T) {
	for _, test := range []struct {
		long bool
		want uint32
		pad  byte
	}{{false, 112, 0}, {true, 116, ' '}} {
		s, talk := withFaults(t, awsemu.Faults{LongChannelClosed: test.long})
		s.End(talk.id, "time is up")
		frame, err := talk.client.raw()
		if err != nil {
			t.Fatal(err)
		}
		if got := binary.BigEndian.Uint32(frame); got != test.want || frame[35] != test.pad {
			t.Errorf("header of %d bytes and padding %q, want %d and %q", got, frame[35], test.want, test.pad)
		}
		m, err := ssmproto.Parse(frame)
		if err != nil || m.Type != ssmproto.ChannelClosed || !strings.Contains(string(m.Payload), `"Output":"time is up"`) {
			t.Errorf("message %+v, %v", m, err)
		}
	}
}

func TestRefusedPortEndsTheSession(t *testing.T) {
	s := start(t, func(c *config) { c.Faults = awsemu.Faults{RefusePorts: []int{22}} })
	attachAgent(t, s, webID)
	out, err := ssmClient(person(t, s, "alice", "shop")).StartSession(deadline(t), &ssm.StartSessionInput{
		Target: aws.String(webID), DocumentName: aws.String("AWS-StartSSHSession"),
	})
	if err != nil {
		t.Fatal(err)
	}
	closed := dial(t, *out.StreamUrl, *out.TokenValue).expect(ssmproto.ChannelClosed)
	if !strings.Contains(string(closed.Payload), "Connection to destination port 22 failed.") {
		t.Errorf("channel_closed says %s", closed.Payload)
	}
}

func TestExpiredTokensOpenNothing(t *testing.T) {
	s := start(t, func(c *config) { c.Faults = awsemu.Faults{ExpireTokens: true} })
	attachAgent(t, s, webID)
	out, err := ssmClient(person(t, s, "alice", "shop")).StartSession(deadline(t), &ssm.StartSessionInput{
		Target: aws.String(webID), DocumentName: aws.String("AWS-StartSSHSession"),
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := dial(t, *out.StreamUrl, *out.TokenValue).ended(); !websocket.IsCloseError(err, websocket.ClosePolicyViolation) {
		t.Errorf("an expired token ends in %v", err)
	}
}

func TestFaultsOfCalls(t *testing.T) {
	s := start(t)
	set := func(f awsemu.Faults) {
		t.Helper()
		if err := s.SetFaults(awsemu.Scope{}, f); err != nil {
			t.Fatal(err)
		}
	}
	identity := func() error {
		_, err := stsClient(gateway(t, s)).GetCallerIdentity(deadline(t), nil)
		return err
	}
	set(awsemu.Faults{Rates: map[string]awsemu.Rate{"sts:GetCallerIdentity": {PerSecond: 1e-6, Burst: 2}}})
	if err := errors.Join(identity(), identity()); err != nil {
		t.Errorf("a burst: %v", err)
	}
	wantCode(t, identity(), "Throttling", "Rate exceeded")
	set(awsemu.Faults{Throttle: map[string]int{"sts:GetCallerIdentity": 2, "ssm:DescribeInstanceInformation": 1}})
	wantCode(t, identity(), "Throttling", "Rate exceeded")
	wantCode(t, identity(), "Throttling")
	if err := identity(); err != nil {
		t.Errorf("the third call: %v", err)
	}
	_, err := ssmClient(gateway(t, s)).DescribeInstanceInformation(deadline(t), nil)
	wantCode(t, err, "ThrottlingException")

	set(awsemu.Faults{Deny: map[string]string{"sts:AssumeRole": "with an explicit deny in a service control policy"}})
	_, err = stsClient(gateway(t, s)).AssumeRole(deadline(t), assumption("alice", "shop"))
	wantCode(t, err, "AccessDenied", "service control policy")

	set(awsemu.Faults{Latency: map[string]awsemu.Duration{"sts:GetCallerIdentity": awsemu.Duration(50 * time.Millisecond)}})
	before := time.Now()
	if err := identity(); err != nil || time.Since(before) < 50*time.Millisecond {
		t.Errorf("answered after %v with %v", time.Since(before), err)
	}
}

func TestFailedResumesCountDown(t *testing.T) {
	s := start(t)
	alice := person(t, s, "alice", "shop")
	talk := startTalk(t, s, alice)
	if err := s.SetFaults(awsemu.Scope{Instance: webID}, awsemu.Faults{FailResumes: 1}); err != nil {
		t.Fatal(err)
	}
	resume := func() (*ssm.ResumeSessionOutput, error) {
		return ssmClient(alice).ResumeSession(deadline(t), &ssm.ResumeSessionInput{SessionId: aws.String(talk.id)})
	}
	_, err := resume()
	wantCode(t, err, "InternalServerError")
	if out, err := resume(); err != nil || out.TokenValue == nil {
		t.Errorf("the second resume gives %+v, %v", out, err)
	}
}

func TestScopesReplaceEachOther(t *testing.T) {
	s, talk := withFaults(t, awsemu.Faults{}) // nothing is wrong with this session
	if err := s.SetFaults(awsemu.Scope{}, awsemu.Faults{ToAgent: awsemu.Link{Drop: 1}}); err != nil {
		t.Fatal(err)
	}
	talk.client.send(ssmproto.InputStreamData, 0, "x")
	talk.agent.expect(ssmproto.InputStreamData)
}

func TestImpossibleFaultsAreRefused(t *testing.T) {
	s := start(t)
	for _, f := range []awsemu.Faults{
		{ToAgent: awsemu.Link{Drop: 1.5}}, {ToClient: awsemu.Link{Grease: -1}}, {CutSide: "middle"},
	} {
		if s.SetFaults(awsemu.Scope{}, f) == nil {
			t.Errorf("%+v was accepted", f)
		}
	}
}

func TestListenRefusesOtherAddresses(t *testing.T) {
	for _, address := range []string{"0.0.0.0:0", "[::]:0", ":0", "192.0.2.1:80"} {
		if s, err := awsemu.Start(awsemu.Config{Listen: address}); err == nil {
			t.Errorf("listens on %s", address)
			_ = s.Close()
		}
	}
	if s, err := awsemu.Start(awsemu.Config{Listen: net.JoinHostPort("::1", "0")}); err == nil {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestOversizedClientPayloadClosesTheWebSocket(t *testing.T) {
	s, talk := withFaults(t, awsemu.Faults{MaxClientPayload: 4, CloseOversized: true})
	talk.client.send(ssmproto.InputStreamData, 0, "1234")
	talk.client.send(ssmproto.InputStreamData, 1, "12345")
	if m := talk.agent.receive(); m.SequenceNumber != 0 {
		t.Errorf("received message %d", m.SequenceNumber)
	}
	if err := talk.client.ended(); err == nil {
		t.Error("the WebSocket stayed open")
	}
	if got := info(t, s, talk.id).ToAgent.Lost; got != 1 {
		t.Errorf("counted %d lost messages", got)
	}
}
